"""Cannot measure."""

from benchmarks.harness import BenchError, Result


def run() -> list[Result]:
    """Raises."""
    raise BenchError("the abacus is broken")
