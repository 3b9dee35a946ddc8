"""GSM8K's problems with a short solution, as a profile's own task: they teach the form of a numeric answer.

The profile drops all other rows (`on_bad_row: drop`), which are counted.
"""

from aquarat_core.errors import DataError
from aquarat_core.tasks.numeric import MARKER, NumericTask, numeric_example

_MOST = 200
"""Characters, with the computations that the solution annotates."""


class ShortSolutions(NumericTask):
    """A number, from a solution of a few lines."""

    def __init__(self):
        super().__init__("short", 0.0)

    def example(self, row, name):
        solution, _, answer = row["answer"].rpartition(f"\n{MARKER}")
        if len(solution) > _MOST:
            raise DataError(f"{len(solution)} characters of solution: {_MOST} are allowed")
        return numeric_example(name, row["question"], answer, solution)
