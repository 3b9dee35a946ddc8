"""`aquarat compare`: whether one checkpoint answers better than another, by their eval reports."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.cli.artifacts import add_json, add_store, find_artifact
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.table import table
from aquarat_core.config.validation import did_you_mean
from aquarat_core.errors import DataError, UsageError
from aquarat_core.plain_text import one_line

if TYPE_CHECKING:
    from aquarat_core.evaluation.comparing import Answers, Flip, Line, Said, SideBySide
    from aquarat_core.evaluation.looks import Looks
    from aquarat_core.evaluation.report import Evaluated

FINDINGS = {"above": "B is better", "below": "B is worse", "no difference shown": "no difference shown"}


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "compare", help="compare two checkpoints, question by question, by their eval reports"
    )
    command.add_argument(
        "first",
        metavar="A",
        help="a checkpoint, for its newest report, or an eval report: an asset's name (EXPERIMENT/ASSET in a named "
        "experiment), (the beginning of) a manifest's hash, a manifest's URI in any store, or a folder of `eval --out`",
    )
    command.add_argument("second", metavar="B", help="the one to judge, in the same ways")
    command.add_argument("--task", action="append", metavar="NAME", help="only this task; may be repeated")
    command.add_argument("--protocol", action="append", metavar="NAME", help="only this protocol; may be repeated")
    command.add_argument(
        "--flips",
        type=int,
        default=0,
        metavar="N",
        help="print up to N questions in full that A answered rightly more often, and N that B did",
    )
    command.add_argument(
        "--fail-if-worse",
        action="store_true",
        help="exit with 1 if B is worse than A, beyond noise, at any task compared",
    )
    add_store(command)
    add_json(command)
    command.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> str | CheckFailed:
    from aquarat_core.evaluation.comparing import answers_of, flips, side_by_side

    if arguments.flips < 0:
        raise UsageError("--flips must be at least 0")
    stores = _Stores()
    sides = [_side(name, arguments.store, stores) for name in (arguments.first, arguments.second)]
    first, second = _chosen([answers_of(side.evaluated, side.config) for side in sides], arguments)
    found = side_by_side(first, second)
    if not found["lines"]:
        raise DataError(f"nothing to compare:\n{_left_out(found)}")
    pairs = {one.name: (one, other) for one in first for other in second if one.name == other.name}
    flipped = [flips(*pairs[line["name"]], arguments.flips) for line in found["lines"]] if arguments.flips else []
    looked = _looks(sides[1].report, stores, found["lines"])
    worse = [line for line in found["lines"] if line["verdict"] == "below"]
    facts: dict[str, Any] = {
        "first": sides[0].facts(), "second": sides[1].facts(), "worse": bool(worse), **found,
        "looks_before_second": [{"task": task, "split": split, **x._asdict()} for task, split, x in looked],
        "only_first_right": [flip for fell, _ in flipped for flip in fell],
        "only_second_right": [flip for _, rose in flipped for flip in rose],
    }  # fmt: skip
    heads = [f"{letter}: {side.text()}" for letter, side in zip("AB", sides, strict=True)]
    text = "\n".join([*heads, "", _table(found["lines"]), *_notes(found, looked), *_flip_texts(flipped)])
    said = answer(arguments, facts, text)
    return CheckFailed(said) if worse and arguments.fail_if_worse else said


# --- which reports --------------------------------------------------------------------------------------------------


class _Stores:
    """Every readable artifact of each store that is asked for, by its manifest's hash; each store is read once."""

    def __init__(self) -> None:
        self._read: dict[str, dict[str, Artifact]] = {}

    def all(self, store: ArtifactStore) -> dict[str, Artifact]:
        from aquarat_core.artifacts.survey import all_artifacts

        if store.uri not in self._read:
            self._read[store.uri] = {sha256: a for sha256, a in all_artifacts(store).items() if isinstance(a, Artifact)}
        return self._read[store.uri]


@dataclass(frozen=True, slots=True)
class _Side:
    """An evaluation to compare: an eval report of a store, or the files of one in a folder."""

    evaluated: Evaluated
    name: str
    report: Artifact | None

    @property
    def config(self) -> Mapping[str, Any]:
        return self.report.manifest.config if self.report else {}

    def facts(self) -> dict[str, Any]:
        checkpoint = self.evaluated.report["checkpoint"]
        return {
            "report": self.name,
            "report_manifest_sha256": self.report.sha256 if self.report else None,
            "report_created": self.report.manifest.created if self.report else None,
            "checkpoint": checkpoint["asset"],
            "checkpoint_manifest_sha256": checkpoint["manifest_sha256"],
            "profile": checkpoint["profile"],
        }

    def text(self) -> str:
        checkpoint = self.evaluated.report["checkpoint"]
        made = f" {self.report.sha256[:12]} of {self.report.manifest.created[:19]}Z" if self.report else ""
        whose = f"{checkpoint['asset']} {checkpoint['manifest_sha256'][:12]}, profile {checkpoint['profile']}"
        return f"{whose}, by {self.name}{made}"


def _side(name: str, store_uri: str, stores: _Stores) -> _Side:
    from aquarat_core.evaluation.report import Evaluated

    folder = Path(name)
    if "://" not in name and (report := folder / "report.json").is_file():
        if not (questions := folder / "questions.parquet").is_file():
            raise DataError(f"{folder} has a report.json and no questions.parquet: it is no eval report")
        return _Side(Evaluated.read_files(report, questions, name), name, None)
    found = _report(name, store_uri, stores)
    return _Side(Evaluated.read(found), found.asset, found)


def _report(name: str, store_uri: str, stores: _Stores) -> Artifact:
    """The eval report of that name, or the newest report on the checkpoint of that name."""
    from aquarat_core.evaluation.looks import is_eval_report, reports_about

    artifact = find_artifact(name, store_uri)
    if is_eval_report(artifact):
        return artifact
    if artifact.manifest.kind != "checkpoint":
        raise UsageError(f"{name} is a {artifact.manifest.kind}: only checkpoints and eval reports can be compared")
    if found := reports_about(artifact, stores.all(artifact.store).values()):
        return found[0]
    report = artifact.asset.replace("_checkpoint", "_eval_report")
    raise DataError(
        f"{artifact.store.uri} has no eval report on {name} (manifest {artifact.sha256[:12]}): materialize {report} "
        "first, or name a report, or a folder that `aquarat eval --out` wrote"
    )


def _chosen(sides: list[list[Answers]], arguments: argparse.Namespace) -> list[list[Answers]]:
    """The answers of each side by the tasks and protocols that were asked for."""
    for option, wanted in (("task", arguments.task), ("protocol", arguments.protocol)):
        known = sorted({getattr(answers, option) for side in sides for answers in side})
        for name in wanted or ():
            if name not in known:
                hint = did_you_mean(name, known)
                raise UsageError(f"--{option} {name}: {hint}the reports have {', '.join(known)}")
        if wanted:
            sides = [[answers for answers in side if getattr(answers, option) in wanted] for side in sides]
    return sides


def _looks(report: Artifact | None, stores: _Stores, lines: Iterable[Line]) -> list[tuple[str, str, Looks]]:
    """The looks at each split before a report; none for a folder, which does not say when it was made."""
    from aquarat_core.evaluation.looks import looks_before

    if report is None:
        return []
    artifacts, splits = stores.all(report.store), dict.fromkeys((line["task"], line["split"]) for line in lines)
    return [(task, split, looks_before(report, artifacts, task, split)) for task, split in splits]


# --- what is printed ------------------------------------------------------------------------------------------------


def _table(lines: Sequence[Line]) -> str:
    from aquarat_core.evaluation.statistics import p_text
    from aquarat_core.evaluation.wording import bounds, rate

    several = len(lines) > 1
    corrected = ("p, Holm",) if several else ()
    heads = ("evaluation", "questions", "A", "B", "B - A, points", "test", "p", *corrected,
             "detectable", "finding")  # fmt: skip
    rows = [
        (
            line["name"], f"{line['n']:,}",
            *(rate(r["accuracy"], r["lo"], r["hi"]) + _times(r["answers"]) for r in (line["first"], line["second"])),
            f"{100 * line['difference']:+.1f} {bounds(line['difference_lo'], line['difference_hi'], '+')}",
            line["test"], p_text(line["p"]), *((p_text(line["p_corrected"]),) if several else ()),
            f"{100 * line['minimum_detectable']:.1f}", FINDINGS[line["verdict"]],
        )
        for line in lines
    ]  # fmt: skip
    return table([heads, *rows])


def _times(answers: int) -> str:
    return f" x{answers}" if answers > 1 else ""


def _notes(found: SideBySide, looked: Sequence[tuple[str, str, Looks]]) -> list[str]:
    from aquarat_core.evaluation.looks import looks_sentence

    notes = ["", "Intervals are of 95 %. A difference counts only if its interval leaves out 0 and p is below 0.05"
             f"{', corrected for the number of lines' if len(found['lines']) > 1 else ''}.",
             "Detectable: the smallest difference in points that would be found four times out of five."]  # fmt: skip
    notes += [looks_sentence(looks, task, split, "B's report") for task, split, looks in looked]
    return [*notes, *(["Not compared:", _left_out(found)] if found["not_compared"] else [])]


def _left_out(found: SideBySide) -> str:
    return "\n".join(f"  {x['name']}: {x['reason']}" for x in found["not_compared"])


def _flip_texts(flipped: Sequence[tuple[list[Flip], list[Flip]]]) -> list[str]:
    found: list[str] = []
    for fell, rose in flipped:
        for better, chosen in (("A", fell), ("B", rose)):
            found += [_flip_text(flip, better) for flip in chosen]
    return found


def _flip_text(flip: Flip, better: str) -> str:
    head = f"=== {flip['name']}, {one_line(flip['id'])}: right in {better}; answer {flip['gold']} ==="
    sides = flip["first"], flip["second"]
    said = [_said_text(letter, answers, letter == better) for letter, answers in zip("AB", sides, strict=True)]
    return "\n".join(["", head, flip["question"], *said])


def _said_text(letter: str, answers: Sequence[Said], better: bool) -> str:
    """One answer in full: where there are several, a right one of the better side and a wrong one of the other."""
    shown = next((x for x in answers if x["correct"] is better), answers[0])
    share = f"{sum(x['correct'] for x in answers)} of {len(answers)} right, one of them" if len(answers) > 1 else ""
    verdict = "right" if shown["correct"] else "wrong"
    parsed = one_line(shown["parsed"]) if shown["parsed"] is not None else "nothing that parses"
    heading = f"--- {letter} ({', '.join(filter(None, [share, verdict]))}): answered {parsed} ---"
    return "\n".join([heading, *([shown["completion"]] if shown["completion"] else [])])
