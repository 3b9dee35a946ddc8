"""What the explorer's pages show of the answers in a store: lists of questions, one question, its history."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aquarat_core.artifacts import Artifact, ArtifactError
from aquarat_core.artifacts.transfer import parallel_map
from aquarat_core.errors import DataError, UserError
from aquarat_core.evaluation.looks import is_eval_report, reports_about
from aquarat_core.plain_text import first_line
from aquarat_core.serving.catalog import Catalog
from aquarat_core.serving.explorer.answers import Answer, Answers, Reader, same_prompt
from aquarat_core.serving.pages import NotFound

PAGE_SIZE = 25
MAX_PAGES = 100_000
MAX_SAMPLES = 64
"""Answers to one question that are shown."""
KEPT = 16
"""Pairs of reports whose marks stay in memory."""
HISTORY = 12
"""Reports in a question's history."""
READERS = 2
"""Reports that are read at a time; each takes a process."""


class Marks(NamedTuple):
    """How a question was answered."""

    before: float | None
    """The share of the earlier checkpoint's answers that are right; None if it was not asked with the same prompt."""
    now: float
    form: bool
    """Whether an answer of the later checkpoint could not be read."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The answers of a report, and those of the one that it is compared with, to one evaluation."""

    now: Answers
    before: Answers | None
    evaluation: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.now.report.sha256, self.before.report.sha256 if self.before else "", self.evaluation

    def marks(self, question: str) -> Marks:
        """How a question of the later report was answered."""
        rows = self.now.of(self.evaluation, question)
        before = self.before.share(self.evaluation, question) if self.before else None
        return Marks(
            None if self.differs(question) else before,
            sum(self.now.answers[row].correct for row in rows) / len(rows),
            any(self.now.answers[row].wrong_form for row in rows),
        )

    def differs(self, question: str) -> bool:
        """Whether the earlier checkpoint was asked the question with another prompt."""
        if self.before is None:
            return False
        ours, theirs = self.now.of(self.evaluation, question), self.before.of(self.evaluation, question)
        return bool(ours and theirs) and not same_prompt((self.now, ours[0]), (self.before, theirs[0]))


FILTERS: dict[str, Callable[[Marks], bool]] = {
    "fixed": lambda m: m.before is not None and m.now > m.before,
    "broke": lambda m: m.before is not None and m.now < m.before,
    "form": lambda m: m.form,
    "wrong": lambda m: not m.before and not m.now,
    "right": lambda m: m.before in (1, None) and m.now == 1,
}
"""Which questions a filter keeps."""


class Explorer:
    """The answers in a store. Its methods read the store, so they are called in a thread."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.reader = Reader()
        self._marks: OrderedDict[tuple[str, str, str], dict[str, Marks]] = OrderedDict()
        self._lock = threading.Lock()

    def reports(self) -> dict[str, Any]:
        """All eval reports, the newest first, and the one that the explorer opens with."""
        found = self.catalog.reports()
        first = next((r for r in found if r.asset.startswith("rl_")), found[0] if found else None)
        return {
            "store": self.catalog.store.uri,
            "reports": [self.catalog.described(report) for report in found],
            "first": first.sha256 if first else None,
        }

    def pair(self, report: str, other: str, evaluation: str) -> Pair:
        """The answers of `report` and of `other`, by default the report on the checkpoint before; "none" for none."""
        now = self.reader.read(self.catalog.report(report))
        before = None
        if other and other != "none":
            before = self.reader.read(self.catalog.report(other))
        elif not other and (parent := self._before(now.report)):
            before = self.reader.read(parent)
        return Pair(now, before, now.named(evaluation))

    def questions(
        self,
        report: str,
        other: str = "",
        evaluation: str = "",
        kept: str = "",
        text: str = "",
        around: str = "",
        page: int = 0,
    ) -> dict[str, Any]:
        """One page of the questions that the filter keeps, and how many each filter keeps.

        It is the page with the question `around`, if that is among them.
        """
        if kept and kept not in FILTERS:
            raise UserError(f"there is no filter {kept[:40]!r}: the filters are {', '.join(FILTERS)}")
        pair = self.pair(report, other, evaluation)
        marks = self._all_marks(pair)
        if text:
            marks = {q: m for q, m in marks.items() if _holds(pair, q, text.casefold())}
        counts = {name: sum(map(keeps, marks.values())) for name, keeps in FILTERS.items()}
        counts["all"] = len(marks)
        questions = [q for q, m in marks.items() if not kept or FILTERS[kept](m)]
        pages = max(1, -(-len(questions) // PAGE_SIZE))
        page = questions.index(around) // PAGE_SIZE if around in questions else min(page, pages - 1)
        shown = questions[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
        return {
            "report": self.catalog.described(pair.now.report),
            "other": self.catalog.described(pair.before.report) if pair.before else None,
            "evaluation": pair.evaluation,
            "evaluations": [_evaluation(pair.now, name) for name in pair.now.rows],
            "counts": counts,
            "questions": [_line(pair, question, marks[question]) for question in shown],
            "page": page,
            "pages": pages,
        }

    def question(self, report: str, other: str, evaluation: str, question: str) -> dict[str, Any]:
        """One question with the answers of both checkpoints."""
        pair = self.pair(report, other, evaluation)
        rows = pair.now.of(pair.evaluation, question)
        if not rows:
            raise NotFound(
                f"{pair.now.report.asset} {pair.now.report.sha256[:12]} has no question {question[:100]!r} in "
                f"{pair.evaluation or 'its evaluation'}: choose one from the list"
            )
        sides = [pair.now, *([pair.before] if pair.before else [])]
        return {
            "id": question,
            "evaluation": pair.evaluation,
            "prompt": pair.now.text("question", rows[0]),
            "gold": pair.now.answers[rows[0]].gold,
            "letters": list(pair.now.letters(pair.evaluation)),
            "differs": pair.differs(question),
            "sides": [self._side(side, pair.evaluation, question) for side in reversed(sides)],
        }

    def history(self, report: str, evaluation: str, question: str) -> dict[str, Any]:
        """The answers to a question in the reports of the chain that `report` is part of, and in other reports of the
        store, oldest first; reports that cannot be read say why."""
        now = self.reader.read(self.catalog.report(report))
        name = now.named(evaluation)
        chain = self._chain(now.report)
        others = [r for r in self.catalog.reports() if r.sha256 not in {c.sha256 for c in chain}]
        chosen = sorted([*chain, *others][:HISTORY], key=lambda r: r.manifest.created)
        entries = parallel_map(lambda one: self._entry(one, name, question, now, one in chain), chosen, READERS)
        return {
            "entries": [entry for entry in entries if entry is not None],
            "left_out": max(0, len(chain) + len(others) - HISTORY),
        }

    def example(self, checkpoint: Artifact) -> str:
        """A question that a report asked the checkpoint, drawn at random. Raises `NotFound` if there is none."""
        for report in reports_about(checkpoint, self.catalog.reports()):
            answers = self.reader.read(report)
            rows = next(iter(answers.rows.values()), dict[str, Sequence[int]]())
            if rows:
                return answers.text("question", random.choice(list(rows.values()))[0])
        raise NotFound(f"no report has asked {checkpoint.asset} anything yet")

    def row(self, report: str, evaluation: str, question: str, sample: int) -> tuple[Answers, str, int]:
        """The row of one answer, with its report's answers and the evaluation's name."""
        answers = self.reader.read(self.catalog.report(report))
        name = answers.named(evaluation)
        rows = answers.of(name, question)
        for row in rows:
            if answers.answers[row].sample == sample:
                return answers, name, row
        raise NotFound(f"{answers.report.asset} has no answer {sample} to the question {question[:100]!r}")

    def checkpoint_of(self, report: Artifact) -> Artifact:
        """The checkpoint that a report is about. Raises `NotFound` if the store no longer has it."""
        for parent in report.manifest.parents:
            if parent.asset.endswith("checkpoint"):
                return self.catalog.find(parent.manifest_sha256)
        raise NotFound(f"the checkpoint of {report.asset} {report.sha256[:12]} is not among the artifacts it names")

    def _all_marks(self, pair: Pair) -> dict[str, Marks]:
        """The marks of all questions, in the order of the report."""
        with self._lock:
            if (known := self._marks.get(pair.key)) is not None:
                self._marks.move_to_end(pair.key)
                return known
        found = {question: pair.marks(question) for question in pair.now.rows[pair.evaluation]}
        with self._lock:
            self._marks[pair.key] = found
            while len(self._marks) > KEPT:
                self._marks.popitem(last=False)
        return found

    def _before(self, report: Artifact) -> Artifact | None:
        """The report on the checkpoint before, with which this one was compared."""
        for parent in report.manifest.parents:
            if parent.asset.endswith("eval_report"):
                try:
                    found = self.catalog.find(parent.manifest_sha256)
                except NotFound:
                    return None
                return found if is_eval_report(found) else None
        return None

    def _chain(self, report: Artifact) -> list[Artifact]:
        """The report and those on the checkpoints before it and after it."""
        found = [report]
        while len(found) < HISTORY and (before := self._before(found[-1])) and before not in found:
            found.append(before)
        later = [r for r in self.catalog.reports() if (b := self._before(r)) and b.sha256 == report.sha256]
        return [*found, *later]

    def _entry(
        self, report: Artifact, evaluation: str, question: str, asked: Answers, in_chain: bool
    ) -> dict[str, Any] | None:
        entry = {**self.catalog.described(report), "in_chain": in_chain}
        try:
            answers = self.reader.read(report)
        except (DataError, ArtifactError) as e:
            return {**entry, "problem": first_line(e)} if in_chain else None
        rows = answers.of(evaluation, question)
        if not rows:
            return {**entry, "problem": "was not asked"} if in_chain else None
        differs = not same_prompt((asked, asked.of(evaluation, question)[0]), (answers, rows[0]))
        return {**entry, "differs": differs, "answers": [_mark(answers.answers[row]) for row in rows[:MAX_SAMPLES]]}

    def _side(self, answers: Answers, evaluation: str, question: str) -> dict[str, Any]:
        rows = answers.of(evaluation, question)
        return {
            **self.catalog.described(answers.report),
            "prompt_shown": bool(rows),
            "answers": [
                {
                    **_mark(answers.answers[row]),
                    "gold": answers.answers[row].gold,
                    "text": answers.text("completion", row),
                    "tokens": answers.tokens(row),
                    "scores": answers.scores(row),
                    "inside": bool(answers.written(evaluation, row)),
                }
                for row in rows[:MAX_SAMPLES]
            ],
            "left_out": max(0, len(rows) - MAX_SAMPLES),
        }


def _evaluation(answers: Answers, name: str) -> dict[str, Any]:
    rows: Iterable[Sequence[int]] = answers.rows[name].values()
    shares = [sum(answers.answers[row].correct for row in found) / len(found) for found in rows]
    return {"name": name, "questions": len(shares), "accuracy": sum(shares) / len(shares)}


def _holds(pair: Pair, question: str, text: str) -> bool:
    if text in question.casefold():
        return True
    row = pair.now.of(pair.evaluation, question)[0]
    return any(text in pair.now.text(column, row).casefold() for column in ("question", "completion"))


def _line(pair: Pair, question: str, marks: Marks) -> dict[str, Any]:
    row = pair.now.of(pair.evaluation, question)[0]
    first = next((line for line in pair.now.text("question", row).splitlines() if line.strip()), "")
    return {
        "id": question,
        "text": first[:160],
        "gold": pair.now.answers[row].gold,
        **marks._asdict(),
    }


def _mark(answer: Answer) -> dict[str, Any]:
    mark = "right" if answer.correct else "form" if answer.wrong_form else "wrong"
    return {"mark": mark, "parsed": answer.parsed, "sample": answer.sample, "stop_reason": answer.stop_reason}
