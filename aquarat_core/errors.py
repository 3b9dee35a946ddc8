"""`UserError`, for errors that the user can fix, and those of its subclasses that several packages raise."""


class UserError(ValueError):
    """The user can fix it. The message says what, where and how; it is shown without a traceback.

    It is a `ValueError` for callers that use the packages as libraries. Any other exception is a fault of the program
    or of the machine, and is shown with its traceback.
    """


class UsageError(UserError):
    """An argument, an environment variable or a setting that is invalid, by itself or in combination with others."""


class MissingPackageError(UsageError):
    """A package that is only needed for some work, and is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        """`what` needs the `package`, which the project's `extra` installs."""
        super().__init__(f"{what} needs {package}, which is not installed: pip install 'aquarat[{extra}]'")


class DataError(UserError):
    """Data that cannot be read or used; the message says which data set, split, row or file, and what to do."""


class WeightsError(UserError):
    """Weights that cannot be read, or do not fit their model or its tokenizer; the message says which and why."""


class StageError(UserError):
    """A stage that cannot continue for a reason that the user can fix; the message says which and how."""
