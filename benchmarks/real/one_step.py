"""GSM8K's problems of one step, as a profile's own task: those whose solution computes once, and that is the answer.

Long solutions are left out as well, because they often take further steps that they do not annotate.

The profile drops all other rows (`on_bad_row: drop`), which are counted.
"""

import re

from aquarat_core.errors import DataError
from aquarat_core.tasks.numeric import MARKER, NumericTask, number_of, numeric_example

_MOST = 200
"""Characters of a solution, with its computation."""
_ANNOTATION = re.compile(r"<<[^<>=]+=([^<>=]+)>>")


class OneStep(NumericTask):
    """A number, from a solution with one annotation `<<48/2=24>>`."""

    def __init__(self):
        super().__init__("one_step", 0.0)

    def example(self, row, name):
        solution, _, answer = row["answer"].rpartition(f"\n{MARKER}")
        results = _ANNOTATION.findall(solution)
        if len(results) != 1:
            raise DataError(f"{len(results)} computations: the problem must have one")
        if len(solution) > _MOST:
            raise DataError(f"{len(solution)} characters of solution: {_MOST} are allowed")
        if number_of(answer.strip()) is None or number_of(results[0].strip()) != number_of(answer.strip()):
            raise DataError(f"it computes {results[0]!r}, but its answer is {answer!r}")
        return numeric_example(name, row["question"], answer, solution)
