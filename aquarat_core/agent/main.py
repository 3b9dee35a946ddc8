"""The agent's commands: `python3 agent.pyz COMMAND ROOT`, one JSON object on standard input, one on standard output."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from . import jobs, leases


def _doctor(root: Path, want: dict[str, Any]) -> dict[str, Any]:
    from . import doctor  # imports HTTP, which the other commands do without

    return doctor.examine(root, want)


COMMANDS = {
    "start": jobs.start,
    "reserve": jobs.reserve,
    "renew": jobs.renew,
    "status": jobs.status,
    "stop": jobs.stop,
    "tail": jobs.tail,
    "leases": leases.listing,
    "release": jobs.release,
    "doctor": _doctor,
}


def main(command: str, root: str) -> int:
    """Runs one command; a failure is an object with `error`, so that the other side can always read the answer.

    What is no `OSError` is a fault of the program, and comes with its `traceback`.
    """
    os.umask(0o077)
    try:
        given: dict[str, Any] = json.loads(sys.stdin.read() or "{}")
        home = Path(root).expanduser()
        home.mkdir(parents=True, exist_ok=True)
        answer = COMMANDS[command](home, given)
    except Exception as e:
        answer = {"error": f"{type(e).__name__}: {e}"}
        if not isinstance(e, OSError):
            answer["traceback"] = traceback.format_exc()
    print(json.dumps(answer), flush=True)
    return 1 if "error" in answer else 0
