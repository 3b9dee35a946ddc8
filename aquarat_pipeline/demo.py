"""`./run demo`: the whole chain in one process, progress on stderr, a table and one line of JSON on stdout.

Everything Dagster and the stages print goes to a log file, so that the terminal shows the bars alone and the last line
of stdout is the result, whatever happened.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

STAGES_EVALUATED = ("base", "mid", "sft", "rl")
HEADLINES = (
    ("val_bpb", "{:.3f} bits per byte on validation text"),
    ("reward_mean_last", "reward {:.3f} in the last step"),
    ("val_loss", "validation loss {:.3f}"),
    ("rl_mcnemar_p", "RL against SFT: p = {:.2g}"),
    ("bytes_per_token", "{:.2f} bytes per token"),
    ("rows_train", "{:,} training questions"),
    ("train_documents", "{:,} training documents"),
)
"""Metric of an artifact, and how the table shows it; the first that an artifact has."""


class DemoError(RuntimeError):
    """The chain did not run to its end; the message is the failed step's own."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """The user's own streams, kept while the process's are sent to the log file."""

    out: TextIO
    err: TextIO
    log: Path


def main() -> int:
    """Runs the demo; returns the exit code."""
    os.environ.setdefault("AQUARAT_PROGRESS", "bars")
    with _terminal() as terminal:
        try:
            answer = {"ok": True, **_run(terminal)}
        except (ValueError, DemoError) as e:
            print(f"\n{e}\nThe full log is {terminal.log}", file=terminal.err)
            answer = {"ok": False, "error": str(e), "log": str(terminal.log)}
        except KeyboardInterrupt:
            answer = {"ok": False, "error": "interrupted", "log": str(terminal.log)}
        print(json.dumps(answer), file=terminal.out, flush=True)
    return 0 if answer["ok"] else 1


def _run(terminal: Terminal) -> dict[str, Any]:
    from aquarat_core.config import load_profile

    profile = load_profile()
    # Imported late: the definitions take the profile and the terminal as they are now.
    import dagster as dg

    from aquarat_core.settings import store_uri
    from aquarat_core.stages.registry import STAGES
    from aquarat_pipeline.definitions import defs
    from aquarat_pipeline.experiments import Experiment
    from aquarat_pipeline.launching import readiness
    from aquarat_pipeline.memory import PeakMemory

    started = time.monotonic()
    print(f"profile {profile.name}: {profile.description}\nlog {terminal.log}\n", file=terminal.err, flush=True)
    with dg.DagsterInstance.get() as instance, PeakMemory(store_uri()) as memory:
        # Its run is executed by Dagster's own executor, not by ours, which would ask this itself.
        plan = readiness.Plan.of(STAGES, Experiment(profile), {})
        readiness.check(Path(instance.root_directory), plan, lambda line: print(line, file=terminal.err, flush=True))
        result = defs.resolve_job_def("pipeline").execute_in_process(instance=instance, raise_on_error=False)
        _require_success(result)
        steps = {s.step_key: s.end_time - s.start_time for s in instance.get_run_step_stats(result.run_id)}
    artifacts = _artifacts(result)
    _show(terminal.out, artifacts, steps)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "store": next(iter(artifacts.values())).store.uri,
        "profile": profile.name,
        "assets": {
            name: {
                "uri": a.uri,
                "data_version": a.data_version,
                "seconds": round(steps[name], 2),
                "manifest_sha256": a.sha256,
            }
            for name, a in artifacts.items()
        },
        "eval": _evaluation(artifacts),
        "peak_memory_mb": round(memory.peak_mb),
    }


def _require_success(result: Any) -> None:
    for failure in (e.step_failure_data for e in result.all_events if e.is_step_failure):
        if failure.error.cls_name == "DagsterExecutionInterruptedError":
            raise DemoError("interrupted: the running stage was stopped, what stood before it is kept")
        user = failure.user_failure_data
        raise DemoError((user and user.description) or failure.error.message.strip())
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.severity.value == "ERROR":
            raise DemoError(f"asset check {check.check_name} of {check.asset_key.to_user_string()} failed")
    if not result.success:
        raise DemoError("the run was stopped")


def _artifacts(result: Any) -> dict[str, Any]:
    from aquarat_core.artifacts import ArtifactStore
    from aquarat_core.settings import store_uri

    store = ArtifactStore.open(store_uri())
    events = [e.step_materialization_data.materialization for e in result.get_asset_materialization_events()]
    return {e.asset_key.to_user_string(): store.get(e.metadata["manifest_sha256"].value) for e in events}


def _evaluation(artifacts: dict[str, Any]) -> dict[str, Any]:
    from aquarat_core.tasks.origin import questions_of

    found: dict[str, Any] = {}
    for stage in STAGES_EVALUATED:
        m = artifacts[f"{stage}_eval_report"].manifest.metrics
        found[stage] = {"accuracy": m["accuracy"], "ci": [m["accuracy_lo"], m["accuracy_hi"]], "n": m["n"]}
    found["questions"] = questions_of(artifacts["rl_eval_report"])
    found["constant_letter"] = m["constant_letter_accuracy"]
    found["mcnemar_p"] = m.get("mcnemar_p")
    return found


def _show(out: TextIO, artifacts: dict[str, Any], steps: dict[str, float]) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    from aquarat_core.tasks.origin import GENERATED, WARNING, questions_of

    table = Table("asset", "seconds", "size", "data version", "result")
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, artifact in artifacts.items():
        size = decimal(sum(f.size for f in artifact.manifest.files))
        table.add_row(
            name, f"{steps[name]:.1f}", size, artifact.data_version[:12], _headline(artifact.manifest.metrics)
        )
    console = Console(file=out, width=None if out.isatty() else 120)
    console.print(table)
    if questions := questions_of(artifacts["rl_eval_report"]):
        console.print(f"Asked were {questions}." + (f" {WARNING}" if questions == GENERATED else ""), highlight=False)
    console.print(
        "base has only seen plain text and does not know the form of an answer: its accuracy is 0 by design.",
        highlight=False,
    )
    report = artifacts["pipeline_report"].record("report.html")
    console.print("Where to look next:", highlight=False)
    for what, where in (
        ("the report", report),
        ("the Dagster UI", "./run dev"),
        ("the ancestry of the last checkpoint", "./run shell -c 'aquarat lineage rl_checkpoint'"),
    ):
        console.print(f"  {what}: {where}", highlight=False, soft_wrap=True)


def _headline(metrics: dict[str, Any]) -> str:
    from aquarat_pipeline.assets.metadata import accuracy_text

    if text := accuracy_text(metrics):
        return text
    return next((form.format(metrics[name]) for name, form in HEADLINES if metrics.get(name) is not None), "")


@contextmanager
def _terminal() -> Iterator[Terminal]:
    """Keeps the user's streams and sends descriptors 1 and 2 to a log file in DAGSTER_HOME."""
    from aquarat_pipeline.launching import progress  # noqa: F401  (keeps the terminal's stderr for the bars)

    logs = Path(os.environ["DAGSTER_HOME"]) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / f"demo-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with os.fdopen(os.dup(1), "w") as out, os.fdopen(os.dup(2), "w") as err, path.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        yield Terminal(out, err, path)


if __name__ == "__main__":
    sys.exit(main())
