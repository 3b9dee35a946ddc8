"""`./run demo`: the whole chain in one process, progress on stderr, the results on stdout.

On a terminal, it ends with a table of results and where to look next. In a pipe, or with `--json`, the last line is
always a short JSON object; all numbers are in the file that it names as `details`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from aquarat_core.artifacts import Artifact
    from aquarat_pipeline.runs.in_process import Outcome, Terminal


def main(argv: list[str] | None = None) -> int:
    """Runs the demo; returns the exit code: 130 after Ctrl-C, 1 if the chain was not completed."""
    arguments = _parser().parse_args(argv)
    from aquarat_pipeline.home import HomeError
    from aquarat_pipeline.runs.in_process import terminal

    try:
        with terminal("demo") as user:
            answer, code = _answer(user, arguments)
    except HomeError as e:
        print(e, file=sys.stderr)
        answer, code = {"ok": False, "error": str(e)}, 1
    if arguments.json or not sys.stdout.isatty():
        print(json.dumps(answer), flush=True)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./run demo",
        allow_abbrev=False,
        description="Materialize every asset of a profile on this machine and show the results. Assets that are fresh "
        "(made by the same code, config and inputs) are left as they are.",
    )
    parser.add_argument("--profile", metavar="NAME", help="a profile's name or file instead of AQUARAT_PROFILE (demo)")
    parser.add_argument("--depth", type=int, metavar="N", help="another depth for a profile that has one")
    parser.add_argument("--again", action="store_true", help="also make assets that are up to date")
    parser.add_argument("--json", action="store_true", help="print a line of JSON at the end, on a terminal too")
    return parser


def _answer(user: Terminal, arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from aquarat_core.errors import UserError
    from aquarat_pipeline.runs.in_process import RunFailedError, RunInterruptedError

    log = str(user.log)
    try:
        if arguments.profile or arguments.depth is not None:
            from aquarat_pipeline.runs.profiles import choose

            choose(arguments.profile, arguments.depth)
        return {"ok": True, **_run(user, arguments.again), "log": log}, 0
    except KeyboardInterrupt:
        user.say("\ninterrupted before anything was started")
        return {"ok": False, "error": "interrupted", "log": log}, 128 + signal.SIGINT
    except RunInterruptedError as e:
        user.say(f"\n{e}")
        return {"ok": False, "error": str(e), "log": log}, 128 + signal.SIGINT
    except (UserError, RunFailedError) as e:
        user.say(f"\n{e}\nThe full log is {log}")
        return {"ok": False, "error": str(e), "log": log}, 1


def _run(user: Terminal, again: bool) -> dict[str, Any]:
    from aquarat_core.config import load_profile

    profile = load_profile()
    user.say(f"profile {profile.name}: {profile.description}\nlog {user.log}\nstarting Dagster")
    # Imported late, because the definitions use the profile and the terminal as they are now.
    from aquarat_core.settings import store_uri
    from aquarat_pipeline.instance import open_instance
    from aquarat_pipeline.memory import PeakMemory
    from aquarat_pipeline.runs.in_process import beside, materialize

    started = time.monotonic()
    with open_instance() as instance, PeakMemory(store_uri()) as memory:
        experiment = beside(user, profile)
        assets = [experiment.ref(name) for name in experiment.stages]
        outcome = materialize(user, instance, assets, again=again, job=experiment.local("pipeline"))
    details: dict[str, Any] = {
        "seconds": round(time.monotonic() - started, 1),
        "store": store_uri(),
        "profile": profile.name,
        "experiment": experiment.name,
        "assets": _assets(outcome),
        "eval": _evaluation(outcome.artifacts),
        "peak_memory_mb": round(memory.peak_mb),
    }
    path = user.log.with_suffix(".json")
    path.write_text(json.dumps(details, indent=2) + "\n")
    report = str(outcome.artifacts["pipeline_report"].record("report.html"))
    show(user.out, outcome)
    _show_next(user.out, outcome, report, str(path))
    return {
        "accuracy": details["eval"]["rl"]["accuracy"],
        "questions": details["eval"]["questions"],
        "report": report,
        "store": details["store"],
        "details": str(path),
    }


def _assets(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "uri": artifact.uri,
            "data_version": artifact.data_version,
            "fresh": name in outcome.fresh,
            "seconds": round(outcome.seconds.get(name, 0.0), 2),
            "manifest_sha256": artifact.sha256,
        }
        for name, artifact in outcome.artifacts.items()
    }


def _evaluation(artifacts: dict[str, Artifact]) -> dict[str, Any]:
    from aquarat_core.stages.registry import CHAIN
    from aquarat_core.tasks.origin import questions_of

    found: dict[str, Any] = {}
    for phase in CHAIN:
        m = artifacts[f"{phase}_eval_report"].manifest.metrics
        found[phase] = {"accuracy": m["accuracy"], "ci": [m["accuracy_lo"], m["accuracy_hi"]], "n": m["n"]}
    last = artifacts["rl_eval_report"]
    found["questions"] = questions_of(last)
    found["constant_letter"] = last.manifest.metrics["constant_letter_accuracy"]
    found["mcnemar_p"] = last.manifest.metrics.get("mcnemar_p")
    return found


def show(out: TextIO, outcome: Outcome) -> None:
    """Prints the table of assets that were made or fresh."""
    from rich.filesize import decimal
    from rich.table import Table

    from aquarat_core.durations import ago
    from aquarat_core.evaluation.headline import headline

    table = Table("asset", "seconds", "size", "data version", "result")
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, artifact in outcome.artifacts.items():
        held = outcome.fresh.get(name)
        took = f"{'adopted' if held.adopted else 'fresh'}: {ago(held.made)}" if held else f"{outcome.seconds[name]:.1f}"
        size = decimal(sum(f.size for f in artifact.manifest.files))
        table.add_row(name, took, size, artifact.data_version[:12], headline(artifact.manifest.metrics))
    console(out).print(table)
    if held := outcome.fresh:
        what = "All" if len(held) == len(outcome.artifacts) else f"{len(held)} of {len(outcome.artifacts)}"
        console(out).print(f"{what} were fresh and left as they are: --again makes them again.", highlight=False)


def console(out: TextIO) -> Console:
    """Output for people: as wide as the terminal, or 120 columns."""
    from rich.console import Console

    return Console(file=out, width=None if out.isatty() else 120)


def _show_next(out: TextIO, outcome: Outcome, report: str, details: str) -> None:
    from aquarat_core.tasks.origin import questions_of, warning_about

    page, ref = console(out), outcome.experiment.ref
    if questions := questions_of(outcome.artifacts["rl_eval_report"]):
        page.print(" ".join(filter(None, (f"Questions: {questions}.", warning_about(questions)))), highlight=False)
    page.print(
        "base has only seen plain text and does not know the form of an answer: its accuracy is 0 by design.",
        highlight=False,
    )
    page.print("Where to look next:", highlight=False)
    for what, where in (
        ("the report", report),
        ("all figures", details),
        ("the Dagster UI", "./run dev"),
        ("the ancestry of the last checkpoint", f"./run shell -c 'aquarat lineage {ref('rl_checkpoint')}'"),
        ("ask it", f"./run shell -c 'aquarat ask {ref('mid_checkpoint')} \"How do you show your answer?\"'"),
        ("for other tools", f"./run shell -c 'aquarat release {ref('model_release')} --to release'"),
    ):
        page.print(f"  {what}: {where}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
