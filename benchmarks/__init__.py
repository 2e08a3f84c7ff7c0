"""Our code beside the plain way, the bare floor and the peers: `make bench` runs every case registered here."""
