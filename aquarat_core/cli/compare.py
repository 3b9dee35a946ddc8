"""`aquarat compare`: whether one checkpoint answers better than another, by their eval reports."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquarat_core.artifacts import Artifact, ArtifactStore, StoreError
from aquarat_core.artifacts.finding import find_checkpoint
from aquarat_core.artifacts.names import beside, by_hash
from aquarat_core.cli.artifacts import add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.table import table
from aquarat_core.config.validation import did_you_mean
from aquarat_core.errors import DataError, UsageError, UserError
from aquarat_core.plain_text import one_line

if TYPE_CHECKING:
    from aquarat_core.evaluation.comparing import Answers, Flip, Line, Said, SideBySide
    from aquarat_core.evaluation.looks import Looks
    from aquarat_core.evaluation.report import Evaluated

FINDINGS = {"above": "B is better", "below": "B is worse", "no difference shown": "no difference shown"}


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "compare", description="Compare two checkpoints, question by question, by their eval reports."
    )
    command.add_argument(
        "first",
        metavar="A",
        help="a checkpoint, for its newest report, or an eval report: an asset (EXPERIMENT/ASSET in a named "
        "experiment), a name, (the beginning of) a manifest's hash, a manifest's URI in any store, or a folder "
        "of `eval --out`",
    )
    command.add_argument("second", metavar="B", help="the one to judge, in the same ways")
    command.add_argument("--task", action="append", metavar="NAME", help="only this task; may be repeated")
    command.add_argument("--protocol", action="append", metavar="NAME", help="only this protocol; may be repeated")
    command.add_argument(
        "--common",
        action="store_true",
        help="where the two were asked different questions, compare by those that are in both",
    )
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
    from aquarat_core.evaluation.comparing import answers_of, flips, of_common_questions, side_by_side

    if arguments.flips < 0:
        raise UsageError("--flips must be at least 0")
    stores = _Stores()
    sides = [_side(name, arguments.store, stores) for name in (arguments.first, arguments.second)]
    first, second = _chosen([answers_of(side.evaluated, side.config) for side in sides], arguments)
    found = side_by_side(first, second, arguments.common)
    if not found["lines"]:
        raise DataError(f"nothing to compare:\n{_left_out(found)}")
    pairs = {x.name: of_common_questions(x, y) for x in first for y in second if x.name == y.name}
    flipped = [flips(*pairs[line["name"]], arguments.flips) for line in found["lines"]] if arguments.flips else []
    looked = _looks(sides[1], arguments.store, stores, found["lines"])
    worse = [line for line in found["lines"] if line["verdict"] == "below"]
    facts: dict[str, Any] = {
        "first": sides[0].facts(), "second": sides[1].facts(), "worse": bool(worse), **found,
        "looks_before_second": [{"task": x.task, "split": x.split, **x.looks._asdict()} for x in looked if x.looks],
        "second_is_counted": sides[1].report is not None,
        "only_first_right": [flip for fell, _ in flipped for flip in fell],
        "only_second_right": [flip for _, rose in flipped for flip in rose],
    }  # fmt: skip
    heads = [f"{letter}: {side.text(stores)}" for letter, side in zip("AB", sides, strict=True)]
    text = "\n".join([*heads, "", _table(found["lines"]), *_notes(found, looked), *_flip_texts(flipped)])
    said = answer(arguments, facts, text)
    return CheckFailed(said) if worse and arguments.fail_if_worse else said


# --- which reports --------------------------------------------------------------------------------------------------


class _Stores:
    """Every readable artifact of each store that is asked for, by its manifest's hash, and the names that they have;
    each store is read once."""

    def __init__(self) -> None:
        self._read: dict[str, dict[str, Artifact]] = {}
        self._names: dict[str, dict[str, list[str]]] = {}

    def all(self, store: ArtifactStore) -> dict[str, Artifact]:
        from aquarat_core.artifacts.survey import readable_artifacts

        if store.uri not in self._read:
            self._read[store.uri] = readable_artifacts(store)
        return self._read[store.uri]

    def names(self, store: ArtifactStore) -> dict[str, list[str]]:
        if store.uri not in self._names:
            self._names[store.uri] = by_hash(store)
        return self._names[store.uri]


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

    def text(self, stores: _Stores) -> str:
        checkpoint = self.evaluated.report["checkpoint"]
        known = stores.names(self.report.store) if self.report else {}
        made = f" {beside(self.report.sha256, known)} of {self.report.manifest.created[:19]}Z" if self.report else ""
        whose = f"{checkpoint['asset']} {beside(checkpoint['manifest_sha256'], known)}, profile {checkpoint['profile']}"
        return f"{whose}, by {self.name}{made}"


def _side(name: str, store_uri: str, stores: _Stores) -> _Side:
    from aquarat_core.evaluation.report import Evaluated

    folder = Path(name)
    if "://" not in name and (folder / "report.json").is_file():
        return _Side(Evaluated.read_folder(folder), name, None)
    try:
        found = _report(name, store_uri, stores)
    except UserError as e:
        if not folder.is_dir():
            raise
        raise DataError(f"the folder {folder} has no report.json, and {e}") from None
    return _Side(Evaluated.read(found), found.asset, found)


def _report(name: str, store_uri: str, stores: _Stores) -> Artifact:
    """The eval report of that name, or the newest report on the checkpoint of that name."""
    from aquarat_core.evaluation.looks import is_eval_report, reports_about

    artifact = find_checkpoint(name, store_uri)
    if is_eval_report(artifact):
        return artifact
    if artifact.manifest.kind != "checkpoint":
        raise UsageError(f"{name} is a {artifact.manifest.kind}: only checkpoints and eval reports can be compared")
    if found := reports_about(artifact, stores.all(artifact.store).values()):
        return found[0]
    raise DataError(
        f"{artifact.store.uri} has no eval report on {name} (manifest {artifact.sha256[:12]}): make one with `aquarat "
        f"eval {artifact.sha256[:12]} --out DIR` and name the folder, or materialize its eval report"
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


@dataclass(frozen=True, slots=True)
class _Looked:
    """The looks at one split: those before B's report, or where B is a folder those that the store has now."""

    task: str
    split: str
    looks: Looks | None
    """None if the store cannot be read."""
    text: str


def _looks(side: _Side, store_uri: str, stores: _Stores, lines: Iterable[Line]) -> list[_Looked]:
    from aquarat_core.evaluation.looks import looks_at, looks_before, looks_sentence, uncounted_sentence

    report, found = side.report, list[_Looked]()
    versions = {e["name"]: e["hashes"]["data_version"] for e in side.evaluated.report.get("evaluations", [])}
    asked = {(line["task"], line["split"]): versions.get(line["name"]) for line in reversed(list(lines))}
    try:
        artifacts = stores.all(report.store if report else ArtifactStore.open(store_uri))
    except StoreError as e:
        if report:
            raise
        # Two folders compare without any store.
        return [_Looked("", "", None, f"How often these questions were looked at before is not known: {e}")]
    for (task, split), version in reversed(asked.items()):
        if report:
            looks = looks_before(report, artifacts, task, split)
            found.append(_Looked(task, split, looks, looks_sentence(looks, task, split, "B's report")))
        elif version:
            looks = looks_at(version, artifacts, task, split)
            text = uncounted_sentence(looks, task, split, "B is in a folder and")
            found.append(_Looked(task, split, looks, text))
    return found


# --- what is printed ------------------------------------------------------------------------------------------------


def _table(lines: Sequence[Line]) -> str:
    from aquarat_core.evaluation.statistics import p_text
    from aquarat_core.evaluation.wording import bounds, rate

    several = len(lines) > 1
    corrected = ("p, Holm",) if several else ()
    heads = ("evaluation", "questions", "A", "B", "B - A, points", "A only / B only", "test", "p", *corrected,
             "detectable", "finding")  # fmt: skip
    rows = [
        (
            line["name"], f"{line['n']:,}",
            *(rate(r["accuracy"], r["lo"], r["hi"]) + _times(r["answers"]) for r in (line["first"], line["second"])),
            f"{100 * line['difference']:+.1f} {bounds(line['difference_lo'], line['difference_hi'], '+')}",
            f"{line['fell']:,} / {line['rose']:,}",
            line["test"], p_text(line["p"]), *((p_text(line["p_corrected"]),) if several else ()),
            "-" if (least := line["minimum_detectable"]) is None else f"{100 * least:.1f}", FINDINGS[line["verdict"]],
        )
        for line in lines
    ]  # fmt: skip
    return table([heads, *rows])


def _times(answers: int) -> str:
    return f" x{answers}" if answers > 1 else ""


def _notes(found: SideBySide, looked: Sequence[_Looked]) -> list[str]:
    several = len(found["lines"]) > 1
    level = f"p < 0.05/{len(found['lines'])}, as for the first of as many lines" if several else "p < 0.05"
    notes = [
        "",
        "Intervals are of 95 %. A difference counts only if its interval leaves out 0 and p is below 0.05"
        f"{', corrected for the number of lines' if several else ''}.",
        "A only / B only: questions that A, or B, answered rightly more often.",
        f"Detectable: the smallest difference in points that would be found four times out of five at {level}. There "
        "is none in a line with too few questions, or with too few that differ to say.",
    ]
    notes += [
        f"{x['name']}: only the {x['n']:,} questions that both were asked are compared, of {x['asked'][0]:,} of A and "
        f"{x['asked'][1]:,} of B."
        for x in found["lines"]
        if set(x["asked"]) != {x["n"]}
    ]
    notes += [x.text for x in looked]
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
