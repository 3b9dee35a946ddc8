"""What the bench of start-up makes of what it measures; the measurements themselves take minutes."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.startup import MODULES, Start, slowest_imports


def test_a_result_is_without_what_it_is_measured_against() -> None:
    start = Start("definitions", 0.5, lambda: 0.0, (), against="import dagster")
    start.seconds.extend((0.75, 0.25, 0.5))
    start.theirs.extend((1.0, 3.0, 2.0))
    result = start.result()
    assert (result.value, result.spread, result.met) == (0.5, (0.25, 0.75), True)
    assert result.against is not None
    assert (result.against.name, result.against.value) == ("python -c 'import dagster'", 2.0)


def test_the_slowest_imports_are_found_in_python_s_own_report() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import asyncio"]
    found = slowest_imports(subprocess.run(command, capture_output=True, text=True, check=True).stderr)
    seconds = [one for _, one in found]
    assert len(found) == MODULES and seconds == sorted(seconds, reverse=True) and seconds[0] > 0
    whole = "import time: self [us] | cumulative | imported package\nimport time:  2500 |  9000 |   one.two\n"
    assert slowest_imports(whole) == [("one.two", 0.0025)]
