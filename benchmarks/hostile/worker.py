"""Reads hostile files of one format in a separate process, and reports the outcome of each as a line of JSON.

`python -m benchmarks.hostile.worker FORMAT FIRST COUNT FOLDER`. The number of an input is printed before it is read, so
that one which hangs or kills the process is known.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.hostile.formats import FORMATS, Format

SPACE_BYTES = 4 << 30
"""What the process may add to its address space: an input that asks for more must not take the machine down."""
SLOW_SECONDS = 10
"""An input that is still being read then is interrupted, where Python can be."""


class _TooSlow(BaseException):
    pass


def main(name: str, first: int, count: int, folder: Path) -> None:
    """Reads the inputs `first` to `first + count - 1` of the format."""
    signal.signal(signal.SIGALRM, _give_up)
    form = FORMATS[name](folder)
    for sample in form.samples:
        form.check(form.read(sample), sample)
    space = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (space + SPACE_BYTES, resource.RLIM_INFINITY))
    for index in range(first, first + count):
        print(json.dumps({"reading": index}), flush=True)
        data = form.mutate(random.Random(f"{name} {index}"))
        print(json.dumps({"read": index, **_measured(form, data)}), flush=True)


def _measured(form: Format, data: bytes) -> dict[str, Any]:
    """`outcome` (value, refused or violation), `why`, processor seconds and the MiB that reading took at its height."""
    before = _peak(reset=True)
    began = _seconds()
    outcome, why = _outcome(form, data)
    return {"outcome": outcome, "why": why, "seconds": _seconds() - began, "mib": (_peak() - before) / 1024}


def _outcome(form: Format, data: bytes) -> tuple[str, str]:
    signal.alarm(SLOW_SECONDS)
    try:
        value = form.read(data)
        signal.alarm(0)
        form.check(value, data)
    except form.errors as e:
        text = str(e)
        # An error of a library that has the right base class by chance names nothing of ours.
        if not type(e).__module__.startswith("aquarat_") and not form.names_own(text):
            return "violation", f"{type(e).__name__} of a library reached the caller: {text[:200]}"
        return ("refused", text[:200]) if text.strip() else ("violation", f"{type(e).__name__} without a word")
    except _TooSlow:
        return "violation", f"not done in {SLOW_SECONDS} s"
    except BaseException as e:
        return "violation", f"{type(e).__name__}: {str(e)[:200]}"
    finally:
        signal.alarm(0)
    return "value", ""


def _seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _peak(reset: bool = False) -> int:
    """Resident memory at its height since the last reset, in KiB."""
    if reset:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def _give_up(*_: object) -> None:
    raise _TooSlow


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
