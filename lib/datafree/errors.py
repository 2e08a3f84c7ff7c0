"""One exception for everything a user can mend; its message is the whole story."""

from __future__ import annotations


class DataFreeError(Exception):
    """What is wrong, what was expected, what to do. The command line prints it and exits with 2."""
