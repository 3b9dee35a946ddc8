"""The one error of everything that reads data."""


class DataError(ValueError):
    """Data that cannot be read or used; the message says which data set, split, row or file, and what to do."""
