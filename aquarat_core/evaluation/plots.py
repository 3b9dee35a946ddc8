"""Curves of a stage's `metrics.jsonl` and accuracies with their intervals, as SVG for pages and PNG for Dagster.

matplotlib draws (imported where it is needed, never through pyplot's global state). SVG colours become CSS variables,
so that one figure fits a light and a dark page; PNG keeps the light colours on white.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from aquarat_core.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from aquarat_core.artifacts import Artifact


class Axes(Protocol):
    """The functions of matplotlib's axes that are used, with types: matplotlib leaves those of its options open."""

    def fill(self, *data: object, **options: object) -> object: ...

    def plot(self, *data: object, **options: object) -> object: ...

    def axvline(self, x: float, **options: object) -> object: ...

    def axhline(self, y: float, **options: object) -> object: ...

    def text(self, x: float, y: float, s: str, **options: object) -> object: ...

    def set_xticks(self, ticks: Sequence[float], labels: Sequence[str], **options: object) -> object: ...

    def set_yticks(self, ticks: Sequence[float], labels: Sequence[str], **options: object) -> object: ...

    def set_xlim(self, left: float, right: float) -> object: ...

    def set_ylim(self, bottom: float, top: float) -> object: ...

    def set_xlabel(self, xlabel: str) -> object: ...

    def set_ylabel(self, ylabel: str) -> object: ...

    def set_title(self, label: str, **options: object) -> object: ...

    def set_axis_off(self) -> None: ...

    def grid(self, visible: bool = True, **options: object) -> None: ...

    def legend(self, **options: object) -> object: ...


Row = Mapping[str, Any]
"""One line of `metrics.jsonl`: `step` and the metrics logged at it."""

MAX_POINTS = 300
"""Points drawn of one curve; longer ones are averaged in bins, or the SVG would weigh megabytes."""
NOISY = 30
"""Curves with more points get a running mean drawn over them; others get their points marked."""
ACCURACY_WIDTH = 4.8
"""Inches, as all of the figure must be seen on a phone."""
PANEL_WIDTH = 3.4
"""Inches of one panel; the SVG is shown at this size and shrinks with the page."""

INK, MUTED, GRID = "#20242c", "#69707d", "#d8dce3"
SERIES = ("#2563eb", "#d97706", "#059669", "#9333ea")
CSS_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES, 1)},
}


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: `steps[i]` goes with `values[i]`."""

    label: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes."""

    title: str
    unit: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An accuracy with its interval, all as shares."""

    label: str
    value: float
    lo: float
    hi: float


REWARD, EXACT_REWARD = "rl/mean_reward", "rl/exact_reward"
"""The mean reward of every step, and that of the steps in which the exact reward has replaced another one."""
PANELS = (
    ("Loss", "nats per token", ("train/loss", "val/loss")),
    ("Held-out bits per byte", "bits per byte", ("val/bpb",)),
    ("Reward and accuracy", "share", (REWARD, EXACT_REWARD, "eval/accuracy")),
    ("Form of the answers", "share", ("rl/parse_rate", "rl/truncated_rate")),
    ("KL to the start", "nats", ("rl/kl_sequence_mean",)),
)


def read_metrics(path: str | Path) -> list[Row]:
    """The rows of a `metrics.jsonl`. Raises `DataError` for a line that is not a JSON object with a `step`."""
    rows: list[Row] = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            raise DataError(f"{path} line {number} is not JSON ({e}): run the stage that wrote it again") from None
        if not isinstance(row, dict) or "step" not in row:
            raise DataError(f"{path} line {number} is no metrics row: it needs an object with a 'step'")
        rows.append(cast(Row, row))
    return rows


def checkpoint_metrics(checkpoint: Artifact) -> list[Row]:
    """The rows of a checkpoint's own `metrics.jsonl`; none if it keeps none."""
    kept = {entry.path for entry in checkpoint.manifest.records}
    return read_metrics(checkpoint.record("metrics.jsonl")) if "metrics.jsonl" in kept else []


def curve_panels(rows: Sequence[Row], stage: str = "") -> list[Panel]:
    """A panel for each group of known metrics that `rows` holds; values that are not finite are left out."""
    prefix = f"{stage}: " if stage else ""
    panels: list[Panel] = []
    for title, unit, names in PANELS:
        series = tuple(s for name in names if (s := _series(rows, name)).values)
        if series:
            panels.append(Panel(prefix + title, unit, series))
    return panels


def draw_curves(panels: Sequence[Panel], columns: int = 3) -> Figure:
    """All panels in a grid: every logged value faint, their running mean bold."""
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style():
        figure = Figure(figsize=(PANEL_WIDTH * columns, 2.4 * rows), layout="constrained")
        axes = cast("Sequence[Axes]", figure.subplots(rows, columns, squeeze=False).ravel())
        for ax, panel in zip(axes, panels, strict=False):
            _draw_panel(ax, panel)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
    return figure


def draw_accuracies(points: Sequence[Accuracy], guessing: float, constant: float, noun: str) -> Figure:
    """Accuracies with their intervals, one a line, against the best constant answer and, where it can be right at all,
    guessing. `noun` is what an answer is called: "letter" or "answer"."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(ACCURACY_WIDTH, 0.9 + 0.36 * len(points)), layout="constrained")
        ax = cast(Axes, figure.subplots())
        for y, point in enumerate(points):
            ax.plot([100 * point.lo, 100 * point.hi], [y, y], color=SERIES[0], linewidth=5, alpha=0.35)
            ax.plot([100 * point.value], [y], "o", color=SERIES[0], markersize=6)
        if guessing:
            ax.axvline(100 * guessing, color=MUTED, linestyle=":", label="guessing")
        ax.axvline(100 * constant, color=SERIES[1], linestyle="--", label=f"best constant {noun}")
        ax.set_yticks(range(len(points)), [p.label for p in points], color=INK)
        ax.set_xlim(0, max(40.0, *(105 * p.hi for p in points)))
        ax.set_ylim(len(points) - 0.4, -0.6)
        ax.set_xlabel("accuracy, % (bar: 95% Wilson interval)")
        ax.grid(axis="y", visible=False)
        # The types of its options are left open, as those of savefig.
        figure.legend(  # pyright: ignore[reportUnknownMemberType]
            loc="outside upper right", ncols=2, frameon=False
        )
    return figure


def to_svg(figure: Figure, prefix: str) -> str:
    """The figure as an inline SVG element in CSS variables; `prefix` keeps its ids apart from other figures'."""
    buffer = io.StringIO()
    with style():
        figure.savefig(  # pyright: ignore[reportUnknownMemberType]
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    width = f'style="--width: {96 * figure.get_figwidth():.0f}px"'  # CSS has 96 pixels an inch
    svg = re.sub(r'width="[^"]*pt" height="[^"]*pt"', width, svg, count=1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in CSS_VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def to_png_data_uri(figure: Figure, dpi: int = 72) -> str:
    """The figure as a `data:image/png;base64,...` address, small enough to sit in an event's metadata.

    A palette of 64 colours is enough for these drawings and takes a fraction of the bytes.
    """
    from PIL import Image

    raw, png = io.BytesIO(), io.BytesIO()
    with style():
        figure.savefig(  # pyright: ignore[reportUnknownMemberType]
            raw, format="png", dpi=dpi, facecolor="white"
        )
    Image.open(raw).convert("RGB").quantize(64).save(png, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def drawn(row: Row, name: str) -> bool:
    """Whether this row is a point on the curve of the metric `name`.

    An exact reward that replaces another one has a curve of its own, because the two have different scales.
    """
    return isinstance(row.get(name), int | float) and not (name == REWARD and EXACT_REWARD in row)


def _series(rows: Sequence[Row], name: str) -> Series:
    points = [(float(r["step"]), float(r[name])) for r in rows if drawn(r, name)]
    points = _binned([p for p in points if math.isfinite(p[1])])
    return Series(name, tuple(p[0] for p in points), tuple(p[1] for p in points))


def _binned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return points
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return [(math.fsum(s for s, _ in b) / len(b), math.fsum(v for _, v in b) / len(b)) for b in bins]


def _running_mean(values: Sequence[float]) -> list[float]:
    """Mean over a window of a tenth of the curve centred at each point; cut off at the ends, so that it never lags."""
    half = max(1, len(values) // 20)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [math.fsum(w) / len(w) for w in windows]


def _draw_panel(ax: Axes, panel: Panel) -> None:
    for colour, series in zip(SERIES, panel.series, strict=False):
        if len(series.values) > NOISY:
            ax.plot(series.steps, series.values, color=colour, alpha=0.3, linewidth=0.8)
            ax.plot(series.steps, _running_mean(series.values), color=colour, linewidth=1.5)
        else:
            ax.plot(series.steps, series.values, color=colour, linewidth=1.5, marker="o", markersize=3)
        if len(panel.series) > 1:
            ax.plot([], [], color=colour, label=series.label)
    ax.set_title(panel.title, loc="left")
    ax.set_xlabel("step")
    ax.set_ylabel(panel.unit)
    if len(panel.series) > 1:
        ax.legend(frameon=False)


@contextmanager
def style() -> Generator[None]:
    """Fonts, colors and lines of all figures; a figure is drawn and saved in it."""
    from matplotlib import rc_context  # pyright: ignore[reportUnknownVariableType]  # its settings can be anything

    with rc_context(
        {
            "font.size": 8.5,
            "axes.titlesize": 9.5,
            "axes.titleweight": "bold",
            "axes.titlecolor": INK,
            "axes.labelcolor": MUTED,
            "axes.edgecolor": GRID,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.6,
            "xtick.color": GRID,
            "ytick.color": GRID,
            "xtick.labelcolor": MUTED,
            "ytick.labelcolor": MUTED,
            "legend.labelcolor": INK,
            "legend.fontsize": 8,
            "svg.fonttype": "none",
            "svg.hashsalt": "aquarat",
            "path.simplify": True,
        }
    ):
        yield
