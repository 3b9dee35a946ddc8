"""Counts to three.

And is done.
"""

from benchmarks.harness import Result, compare, unmeasured


def run() -> list[Result]:
    """One plain result, one ratio, one that misses its goal and one that cannot be measured."""
    ours, theirs = iter((40.0, 10.0, 60.0)), iter((10.0, 5.0, 10.0))
    return [
        Result("seconds", "s", (3.0, 1.0, 2.0), goal="≤ 2 s"),
        compare("speed", "rows/s", lambda: next(ours), lambda: next(theirs), "abacus", runs=3, goal="≥ 4"),
        Result("memory", "GB", (7.0,), goal="≤ 6 GB"),
        unmeasured("throughput", "tokens/s", "there is no GPU here", goal="≥ 1000 tokens/s"),
    ]
