"""One exception for everything a user can mend; its message is the whole story."""


class DataFreeError(Exception):
    """What is wrong, what was expected, what to do. The command line prints it and exits with 2."""
