"""The agent's commands: `python3 agent.pyz COMMAND ROOT`, one JSON object on standard input, one on standard output."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import jobs, leases, switch

if TYPE_CHECKING:
    from .protocol import DoctorReply, DoctorRequest, ErrorReply, Machine, MachineRequest


def _doctor(root: Path, request: DoctorRequest) -> DoctorReply:
    from . import doctor  # imports HTTP, which the other commands do not need

    return doctor.examine(root, request)


def _machine(root: Path, request: MachineRequest) -> Machine:
    from . import machine  # imports what only two commands need

    return machine.report(root, request)


# Each takes the host's root and its request type from `protocol`, and returns its reply.
COMMANDS: dict[str, Callable[[Path, Any], Mapping[str, object]]] = {
    "start": jobs.start,
    "reserve": jobs.reserve,
    "renew": jobs.renew,
    "status": jobs.status,
    "stop": jobs.stop,
    "tail": jobs.tail,
    "leases": leases.listing,
    "release": jobs.release,
    "drain": jobs.drain,
    "arm": switch.arm,
    "disarm": switch.disarm,
    "doctor": _doctor,
    "machine": _machine,
}


def main(command: str, root: str) -> int:
    """Runs one command. A failure is an object with `error`, so that the other side can always parse the reply.

    Exceptions other than `OSError` are program faults and are sent with their `traceback`.
    """
    os.umask(0o077)
    try:
        request = json.loads(sys.stdin.read() or "{}")
        home = Path(root).expanduser()
        home.mkdir(parents=True, exist_ok=True)
        reply = COMMANDS[command](home, request)
    except Exception as e:
        failure: ErrorReply = {"error": f"{type(e).__name__}: {e}"}
        if not isinstance(e, OSError):
            failure["traceback"] = traceback.format_exc()
        reply = failure
    print(json.dumps(reply), flush=True)
    return 1 if "error" in reply else 0
