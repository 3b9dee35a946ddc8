"""Draws what a finished demo has come to: `python docs/pictures.py [--store URI]`.

It reads the checkpoints and eval reports of a store's main experiment, writes `docs/demo-*.svg`, prints the table of
accuracies, and puts table, pictures and one worked question between `<!-- measured: demo -->` and `<!-- end -->` of the
pages, so that all of them are of one run. The same store gives the same bytes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import RLConfig
from aquarat_core.errors import DataError, UserError
from aquarat_core.evaluation import chain_report, plots
from aquarat_core.evaluation.chain_report import StageResult, StageRow
from aquarat_core.evaluation.records import Record
from aquarat_core.evaluation.report import Evaluated
from aquarat_core.evaluation.summary import Comparison, Summary
from aquarat_core.settings import store_uri
from aquarat_core.stages.registry import CHAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
PART = re.compile(r"(<!-- measured: demo -->\n).*?(<!-- end -->)", re.DOTALL)
SIZE = (2.8, 2.35)
"""Inches of a picture: three stand beside each other in a README on GitHub, and one fits a phone."""
WIDTH = 120
"""Of the pages' lines."""
MAX_ANSWER = 64
"""Characters shown of an answer; base goes on until its budget is used up."""
NAMES = {"base": "base", "mid": "mid", "sft": "SFT", "rl": "RL"}
TRAINED_ON = {
    "base": "plain text, so it does not know the form of an answer",
    "mid": "conversations and problems",
    "sft": "worked answers",
    "rl": "answers of its own, rewarded when right",
}
LIGHT = {"--page": "#ffffff", "--ink": "#20242c", "--muted": "#57606a", "--line": "#d8dce3"}
DARK = {"--page": "#15181c", "--ink": "#e9ecef", "--muted": "#a5adb5", "--line": "#3a4049"}
LIGHT_SERIES, DARK_SERIES = plots.SERIES, ("#7aa7ff", "#f5b04c", "#46d39a", "#c79bff")


@dataclass(frozen=True, slots=True)
class Demo:
    """A finished chain: its stages in order, and the report on all of them."""

    stages: dict[str, StageResult]
    rows: dict[str, StageRow]

    @property
    def last(self) -> Summary:
        return self.rows["rl"]["summary"]

    @property
    def rl_against_sft(self) -> Comparison:
        return _compared(self.rows["rl"])


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG of its own, and what it shows in words."""

    name: str
    alt: str
    svg: str


def main(arguments: list[str]) -> int:
    """Rewrites pictures and pages; returns 2 for a store without a finished chain."""
    parser = argparse.ArgumentParser(prog="python docs/pictures.py", description="Draw what a finished demo came to.")
    parser.add_argument("--store", default=store_uri(), help="URI of the store (AQUARAT_STORE)")
    try:
        demo = read(ArtifactStore.open(parser.parse_args(arguments).store))
        write(demo, ROOT)
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    print(table(demo))
    return 0


def read(store: ArtifactStore) -> Demo:
    """The latest chain of the store's main experiment. Raises `DataError` where its parts do not belong together."""
    stages: dict[str, StageResult] = {}
    for name in CHAIN:
        checkpoint, evaluation = store.resolve(f"{name}_checkpoint"), store.resolve(f"{name}_eval_report")
        curves = plots.checkpoint_metrics(checkpoint)
        stages[name] = StageResult(checkpoint, evaluation, Evaluated.read(evaluation), curves)
    report = chain_report.build(list(stages.values()))
    rows = dict(zip(CHAIN, report["stages"], strict=True))
    odd = [*report["warnings"], *(r["comparison"]["reason"] for r in report["stages"][1:] if _reason(r))]
    if odd:
        raise DataError(f"the latest chain in {store.uri} is not of one piece: {'; '.join(map(str, odd))}")
    return Demo(stages, rows)


def write(demo: Demo, root: Path) -> None:
    """The pictures into `docs/`, and the measured part of `README.md` and of `docs/index.md`."""
    drawn = pictures(demo)
    files = {root / "docs" / picture.name: picture.svg for picture in drawn}
    for page, folder, parts in (("README.md", "docs/", (table, worked)), ("docs/index.md", "", (table,))):
        images = "\n".join(f"![{p.alt}]({folder}{p.name})" for p in drawn)
        part = "\n\n".join([images, *(make(demo) for make in parts), measured(demo)])
        path = root / page
        text, found = PART.subn(lambda match, part=part: f"{match[1]}\n{part}\n\n{match[2]}", path.read_text())
        if found != 1:
            raise DataError(f"{path} has {found} parts between '<!-- measured: demo -->' and '<!-- end -->', not 1")
        files[path] = text
    for path, text in files.items():
        path.write_text(text)


# --- text -----------------------------------------------------------------------------------------------------------


def table(demo: Demo) -> str:
    """The accuracies as a Markdown table."""
    constant, n = demo.last["constant_letter"], demo.last["n"]
    rows = [
        ("checkpoint", f"right, of {n:,} questions", "points over the one before"),
        ("---", "---", "---"),
        *((f"{NAMES[x]}: {TRAINED_ON[x]}", _accuracy(r["summary"]), _gain(r)) for x, r in demo.rows.items()),
        (
            f"*for comparison: always {constant['letter']}, the letter right most often*",
            _percent(constant["accuracy"]),
            "",
        ),
        ("*for comparison: guessing*", _percent(demo.last["uniform"]), ""),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def worked(demo: Demo) -> str:
    """One question with the answers of all checkpoints: the first to which only RL gives the right letter, not mid or
    SFT, and with it the right option's text: a letter may be right by chance."""
    answers = {name: {r.id: r for r in stage.evaluated.records} for name, stage in demo.stages.items()}
    only_rl = [i for i in sorted(answers["rl"]) if _only_rl({x: a[i] for x, a in answers.items()})]
    chosen = next((i for i in only_rl if _states_the_option(answers["rl"][i])), None)
    if chosen is None:
        raise DataError("no question that RL answers correctly and mid and SFT do not: there is none to show")
    first, *options, instruction = answers["rl"][chosen].question.splitlines()
    shown = [first, " | ".join(options), instruction, ""]
    shown += [f"{NAMES[x]:6}{_verdict(a[chosen]):11}{_one_line(a[chosen].completion)}" for x, a in answers.items()]
    result = demo.rl_against_sft
    head = (
        f"RL answers {result['only_child']:,} questions correctly that SFT gets wrong, and SFT "
        f"{result['only_parent']:,} that RL gets wrong. This is the first that only RL answers correctly, the "
        "option's value included (`|` stands for a line break):"
    )
    return "\n".join([fill(head, WIDTH), "", *(f"    {line}".rstrip() for line in shown)])


def measured(demo: Demo) -> str:
    """Where, when and on what the numbers were measured."""
    rl = demo.stages["rl"].evaluation.manifest
    evaluation = demo.stages["rl"].evaluated.report["evaluation"]
    hardware = rl.hardware
    where = f"{hardware['gpus']} x {hardware['gpu']}" if "gpu" in hardware else f"{hardware['cores']} CPU cores"
    order = "permuted" if evaluation["permute_options"] else "given"
    asked, options = demo.rows["rl"]["questions"], len(demo.last["letters"])
    text = (
        f"Measured {rl.created[:10]} on {where} ({hardware['cpu']}), profile `{rl.profile}`: {asked} held out from "
        f"training, {options} options in {order} order, one greedy answer each. Brackets and bars are 95 % Wilson "
        "intervals, p is of the exact McNemar test on the same questions."
    )
    return fill(text, WIDTH)


def _accuracy(s: Summary) -> str:
    return f"{_percent(s['accuracy'])} [{100 * s['accuracy_lo']:.1f}, {100 * s['accuracy_hi']:.1f}]"


def _gain(row: StageRow) -> str:
    if row["comparison"]["result"] is None:
        return ""
    result = _compared(row)
    p = result["mcnemar_p"]
    return f"{100 * result['difference']:+.1f}, p {f'= {p:.1g}' if p else '< 1e-300'}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _compared(row: StageRow) -> Comparison:
    if (result := row["comparison"]["result"]) is None:
        raise DataError(f"{row['checkpoint']['asset']} is not compared with its parent: {row['comparison']['reason']}")
    return result


def _reason(row: StageRow) -> str | None:
    return row["comparison"]["reason"]


def _states_the_option(r: Record) -> bool:
    """Whether the answer repeats the right option, as it was asked to."""
    option = next(line for line in r.question.splitlines() if line.endswith(f" = {r.gold}"))
    return option in r.completion.splitlines()


def _only_rl(answers: dict[str, Record]) -> bool:
    return answers["rl"].correct and not any(answers[name].correct for name in ("base", "mid", "sft"))


def _verdict(answer: Record) -> str:
    return "right" if answer.correct else "wrong" if answer.parsed else "no answer"


def _one_line(text: str) -> str:
    line = " | ".join(text.strip().splitlines())
    return line if len(line) <= MAX_ANSWER else f"{line[:MAX_ANSWER].rstrip()} ..."


# --- pictures -------------------------------------------------------------------------------------------------------


def pictures(demo: Demo) -> tuple[Picture, ...]:
    """All pictures, in the order in which they are shown."""
    return _accuracies(demo), _loss(demo), _rl(demo)


def _accuracies(demo: Demo) -> Picture:
    found = {NAMES[x]: row["summary"] for x, row in demo.rows.items()}
    points = [
        plots.Accuracy(f"{name} {_percent(s['accuracy'])}", s["accuracy"], s["accuracy_lo"], s["accuracy_hi"])
        for name, s in found.items()
    ]
    constant, guessing, n = demo.last["constant_letter"], demo.last["uniform"], demo.last["n"]
    figure = plots.draw_accuracies(points, guessing, constant["accuracy"], "letter")
    ax: Any = figure.axes[0]
    bars, marks = (ax.lines[first : 2 * len(points) : 2] for first in (0, 1))
    for bar, mark in zip(bars, marks, strict=True):
        # At this size a dot hides an interval, and ends that project make it twice as wide.
        bar.set(solid_capstyle="butt", linewidth=9, alpha=0.5)
        mark.set(marker="|", markersize=9, markeredgewidth=1)
    ax.set_xlim(-3, 100)
    ax.set_xlabel(f"% right of {n:,} held-out questions")
    alt = (
        f"Accuracy on {n:,} held-out questions: {', '.join(f'{name} {_accuracy(s)}' for name, s in found.items())}. "
        f"Guessing {_percent(guessing)}, best constant letter {_percent(constant['accuracy'])}."
    )
    return _picture(figure, "demo-accuracy.svg", alt)


def _loss(demo: Demo) -> Picture:
    """The loss of base, mid and SFT over the tokens that they were trained on, one after the other."""
    series: list[plots.Series] = []
    before, ends = 0.0, list[str]()
    for name in ("base", "mid", "sft"):
        stage = demo.stages[name]
        (loss, *_) = plots.curve_panels([{k: r[k] for k in ("step", "train/loss") if k in r} for r in stage.curves])
        tokens, steps = (float(stage.checkpoint.manifest.metrics[x] or 0) for x in ("tokens", "steps"))
        (curve,) = loss.series
        at = tuple((before + tokens * step / steps) / 1e6 for step in curve.steps)
        series.append(plots.Series(NAMES[name], at, curve.values))
        before += tokens
        last = curve.values[-max(1, len(curve.values) // 10) :]
        ends.append(f"{NAMES[name]} {sum(last) / len(last):.2f}")
    figure = plots.draw_curves([plots.Panel("Loss, each on its own data", "nats per token, log scale", tuple(series))])
    ax: Any = figure.axes[0]
    ax.set_xlabel("million training tokens")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 3, 10) if low <= t <= high]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    alt = (
        f"Training loss in nats per token over {before / 1e6:.2f} million tokens, each stage on its own data. Means of "
        f"the last tenth: {', '.join(ends)}."
    )
    return _picture(figure, "demo-loss.svg", alt)


def _rl(demo: Demo) -> Picture:
    """Reward and held-out accuracy by step."""
    stage = demo.stages["rl"]
    config = RLConfig.model_validate(stage.checkpoint.manifest.config)
    names = {
        "rl/mean_reward": f"mean reward (n = {config.prompts_per_step * config.group_size})",
        "eval/accuracy": f"held-out accuracy (n = {config.eval_questions})",
    }
    rows = [{k: r[k] for k in ("step", *names) if k in r} for r in stage.curves]
    (panel,) = plots.curve_panels(rows)
    curves = {s.label: s for s in panel.series}
    series = tuple(plots.Series(text, curves[name].steps, curves[name].values) for name, text in names.items())
    figure = plots.draw_curves([plots.Panel("Reward and accuracy in RL", "mean, right = 1", series)])
    ax: Any = figure.axes[0]
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.4 * (high - low), high)  # room for the legend
    accuracy = curves["eval/accuracy"].values
    alt = (
        f"RL by step: mean reward of {config.prompts_per_step * config.group_size} sampled answers, and accuracy on "
        f"{config.eval_questions} held-out questions from {_percent(accuracy[0])} to {_percent(accuracy[-1])}."
    )
    return _picture(figure, "demo-rl.svg", alt)


def _picture(figure: Figure, name: str, alt: str) -> Picture:
    figure.set_size_inches(*SIZE)
    return Picture(name, alt, standalone(plots.to_svg(figure, Path(name).stem), alt))


def standalone(svg: str, title: str) -> str:
    """An inline SVG of `plots.to_svg` as a file: with size, title, background, and colours for light and dark."""
    width, height = (round(96 * side) for side in SIZE)
    svg, found = re.subn(r'style="--width: [^"]*"', f'width="{width}" height="{height}" role="img"', svg, count=1)
    if found != 1:
        raise DataError("plots.to_svg no longer writes the width that is replaced here")
    head = f"<title>{_escaped(title)}</title>\n{_style()}\n"
    page = '<rect width="100%" height="100%" style="fill: var(--page)"/>\n'
    return re.sub(r"(<svg[^>]*>\n?)", lambda match: match[1] + head + page, svg, count=1).strip() + "\n"


def _style() -> str:
    def rule(colours: dict[str, str], series: Sequence[str]) -> str:
        named = {**colours, **{f"--series-{i}": colour for i, colour in enumerate(series, 1)}}
        return f"svg {{ {' '.join(f'{name}: {colour};' for name, colour in named.items())} }}"

    dark = f"@media (prefers-color-scheme: dark) {{ {rule(DARK, DARK_SERIES)} }}"
    return f"<style>\n{rule(LIGHT, LIGHT_SERIES)}\n{dark}\n</style>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
