"""`aquarat reproduce`: runs a stage again and checks whether the result is the same."""

from __future__ import annotations

import argparse
from pathlib import Path

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.artifacts.names import shown
from aquarat_core.cli.artifacts import add_artifact, add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.table import table
from aquarat_core.runtime.scratch import scratch_folder


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("reproduce")
    add_artifact(command)
    add_store(command)
    add_json(command)
    command.add_argument("--anyway", action="store_true", help="run even if the code has changed since")
    command.add_argument(
        "--run-code",
        action="store_true",
        help="run the task code that the artifact's manifest contains: read it first",
    )
    command.add_argument("--tolerance", type=float, default=0.01,
                         help="relative difference of weights that counts as the same on other hardware "
                         "(default: %(default)s)")  # fmt: skip
    command.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the new artifact in a store there")
    command.set_defaults(run=_reproduce)


def _reproduce(arguments: argparse.Namespace) -> str | CheckFailed:
    from aquarat_core.maintenance.reproduce import reproduce

    artifact = ArtifactStore.open(arguments.store).resolve(arguments.artifact)
    with scratch_folder("reproduce") as scratch:
        found = reproduce(
            artifact,
            arguments.keep or scratch,
            anyway=arguments.anyway,
            run_code=arguments.run_code,
            tolerance=arguments.tolerance,
        )
    demanded = "bit for bit (same hardware, libraries and code)" if found.bitwise else f"within {found.tolerance:g}"
    verdict = f"{shown(artifact)} was {'' if found.ok else 'NOT '}reproduced, {demanded}"
    rows = [("file", f.path, f.note) for f in found.files]
    rows += [("metric", name, f"{left} then, {right} now") for name, (left, right) in found.metrics.items()]
    facts = {
        "ok": found.ok,
        "bitwise": found.bitwise,
        "tolerance": found.tolerance,
        "files": {f.path: {"identical": f.identical, "distance": f.distance} for f in found.files},
        "metrics": found.metrics,
        "manifest_sha256": [artifact.sha256, found.again.sha256],
    }
    report = answer(arguments, facts, f"{table(rows)}\n{verdict}")
    return report if found.ok else CheckFailed(report)
