"""The command that starts a stage, or any other distributed program, on its ranks. Imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

STAGE = ("-m", "aquarat_core.stages.run")
"""Arguments that run a stage; the URI of its spec follows."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the torchrun agents of a job on several hosts meet, from the point of view of one of them."""

    nodes: int
    node: int
    endpoint: str
    """`ADDRESS:PORT` on the first host."""
    job: str
    local_address: str
    """This host's."""


def torchrun(
    program: Sequence[str],
    ranks: int,
    log_dir: str,
    python: Sequence[str] = (sys.executable,),
    *,
    meeting: Meeting | None = None,
    tee: bool = False,
) -> list[str]:
    """The command that runs `program`, as in `-m MODULE ARGUMENT`, on `ranks` processes of a host.

    `python` is the interpreter with its options. With `tee`, the output of the ranks is shown in addition to torchrun's
    own, and each line is marked with its rank.
    """
    options = ["--nproc-per-node", str(ranks)]
    if meeting is not None:
        options += ["--nnodes", str(meeting.nodes), "--rdzv-conf", f"rank={meeting.node}"]
        options += ["--rdzv-endpoint", meeting.endpoint, "--rdzv-id", meeting.job]
        options += ["--local-addr", meeting.local_address]
    if tee:
        options += ["--tee", "3"]
    return [*python, "-m", "aquarat_core.torchrun", *options, "--log-dir", log_dir, *program]
