"""What was measured and what it proves: records, the claims of the papers, and the ledger that joins them."""
