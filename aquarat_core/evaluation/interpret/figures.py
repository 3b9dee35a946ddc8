"""Drawings of what was found: heat maps of layers and heads, curves over the layers, a text as a head sees it.

A cell is one color over the page, more opaque the larger its value, so that a map fits a light and a dark page. All of
them are as wide as a phone's screen lets a figure be without shrinking its letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from aquarat_core.evaluation.plots import INK, MUTED, SERIES, Axes, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 5.3
"""Inches: 32 rem, the width below which a page does not shrink a figure."""
LEFT, GAP, TOP, BOTTOM = 0.5, 0.18, 0.34, 0.46
"""Inches around the panels of a grid: for the labels on the left, between columns, for a title, for labels below."""
FULL = 0.65
"""Opacity of the value 1: a number on it can still be read."""
MAX_NUMBERED = 48
"""Cells up to which each has its number in it."""
MAX_LABELS = 12
"""Labels of an axis; of more rows or columns every second, third, ... has one."""
LINE_HEIGHT, TEXT_SIZE = 0.185, 8.0
"""Of a text: inches from line to line, and points of its letters."""
FAINTEST = 0.02
"""Shares below it are left blank: nobody would see them, and they would make the drawing heavy."""
GLYPHS = {"\n": "↵", "\t": "→", "\r": "␍"}


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Values of all heads, [layers][heads]."""

    title: str
    values: list[list[float]]
    full: float = 1.0
    """The value that is drawn in full color."""
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Curve:
    """Values after the embeddings and after each layer."""

    label: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class TextMap:
    """A text whose tokens are shaded by their weights."""

    title: str
    tokens: Sequence[str]
    weights: Sequence[float]
    """One for each token; the largest is drawn in full color."""


def draw_heat_maps(maps: Sequence[HeatMap], columns: int) -> Figure:
    """Heat maps of the same heads in a grid: layers from top to bottom, heads from left to right."""
    from matplotlib.figure import Figure

    layers, heads = len(maps[0].values), len(maps[0].values[0])
    rows = math.ceil(len(maps) / columns)
    width, height = (WIDTH - LEFT) / columns - GAP, layers * min(0.3, max(0.12, 4.5 / layers))
    whole = rows * (TOP + height) + BOTTOM
    with style():
        figure = Figure(figsize=(WIDTH, whole))
        for i, heat in enumerate(maps):
            row, column = divmod(i, columns)
            x, y = LEFT + column * (width + GAP), whole - (row + 1) * (TOP + height)
            ax = _axes(figure, x, y, width, height)
            _draw_heat_map(ax, heat, numbered=layers * heads <= MAX_NUMBERED)
            _label(ax, layers if column == 0 else 0, heads if row == rows - 1 else 0)
    return figure


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes with their lower left corner at (x, y), all in inches: a layout that is known need not be searched for."""
    w, h = figure.get_figwidth(), figure.get_figheight()
    place = (x / w, y / h, width / w, height / h)
    return cast(Axes, figure.add_axes(place))  # pyright: ignore[reportUnknownMemberType]


def _draw_heat_map(ax: Axes, heat: HeatMap, numbered: bool) -> None:
    for layer, row in enumerate(heat.values):
        for head, value in enumerate(row):
            _cell(ax, head - 0.5, layer - 0.5, 1, 1, value / heat.full if heat.full else 0.0)
            if numbered:
                said = f"{value:.{heat.digits}f}"
                ax.text(head, layer, said, ha="center", va="center", color=INK, fontsize=7.5)
    ax.set_xlim(-0.5, len(heat.values[0]) - 0.5)
    ax.set_ylim(len(heat.values) - 0.5, -0.5)
    ax.set_title(heat.title, loc="left", fontsize=8.5)
    ax.grid(False)


def _label(ax: Axes, layers: int, heads: int) -> None:
    """Numbers the layers and the heads; 0 of them leaves an axis without labels."""
    shown = range(0, heads, math.ceil(heads / MAX_LABELS) or 1)
    ax.set_xticks(shown, [str(i) for i in shown])
    ax.set_xlabel("head" if heads else "")
    shown = range(0, layers, math.ceil(layers / MAX_LABELS) or 1)
    ax.set_yticks(shown, [str(i) for i in shown])
    ax.set_ylabel("layer" if layers else "")


def _cell(ax: Axes, x: float, y: float, width: float, height: float, share: float) -> None:
    if share < FAINTEST:
        return
    corners = [x, x + width, x + width, x], [y, y, y + height, y + height]
    ax.fill(*corners, color=SERIES[0], alpha=round(FULL * min(1.0, share), 3), linewidth=0)


def draw_lens(curves: Sequence[Curve], chance: float) -> Figure:
    """Shares over the layers, the embeddings first, and the line of guessing."""
    from matplotlib.figure import Figure

    n = len(curves[0].values)
    with style():
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        ax = cast(Axes, figure.subplots())
        ax.axhline(chance, color=MUTED, linestyle=":", linewidth=1, label="guessing")
        for color, curve in zip(SERIES, curves, strict=False):
            ax.plot(range(n), curve.values, color=color, linewidth=1.5, marker="o", markersize=3.5, label=curve.label)
        shown = range(0, n, math.ceil(n / MAX_LABELS))
        ax.set_xticks(shown, ["input" if i == 0 else str(i - 1) for i in shown])
        ax.set_xlim(-0.3, n - 0.7)
        ax.set_ylim(-0.03, 1.05)
        ax.set_xlabel("after layer")
        ax.set_ylabel("share")
        figure.legend(  # pyright: ignore[reportUnknownMemberType]  # the types of its options are left open
            loc="outside upper left", ncols=2, frameon=False
        )
    return figure


def draw_texts(texts: Sequence[TextMap]) -> Figure:
    """Each text in lines, its tokens shaded by their weights; the last token is the one that looks."""
    from matplotlib.figure import Figure

    laid_out = [_lines(text) for text in texts]
    heights = [(len(lines) + 1.6) * LINE_HEIGHT for lines in laid_out]
    with style():
        figure = Figure(figsize=(WIDTH, sum(heights)))
        top = sum(heights)
        for text, lines, height in zip(texts, laid_out, heights, strict=True):
            top -= height
            ax = _axes(figure, 0, top, WIDTH, height)
            ax.set_xlim(0, WIDTH)
            ax.set_ylim(height / LINE_HEIGHT, 0)
            ax.set_axis_off()
            ax.text(0, 0.5, text.title, va="center", color=INK, fontsize=8.5, fontweight="bold", parse_math=False)
            full = max(text.weights)
            for number, line in enumerate(lines, 1):
                _draw_line(ax, number, line, full)
    return figure


@dataclass(frozen=True, slots=True)
class _Word:
    """A token in a line; places and widths in inches."""

    text: str
    """Without the spaces around it: pages drop them."""
    text_x: float
    weight: float
    x: float
    width: float


def _draw_line(ax: Axes, number: int, line: Sequence[_Word], full: float) -> None:
    for word in line:
        _cell(ax, word.x, number + 0.02, word.width, 0.96, word.weight / full if full else 0.0)
        # Each token by itself: in the page's font a line as a whole would drift away from its shades.
        if word.text:
            ax.text(word.text_x, number + 0.5, word.text, va="center", color=INK, fontsize=TEXT_SIZE, parse_math=False)


def _lines(text: TextMap) -> list[list[_Word]]:
    """The tokens in lines no wider than the figure; a token that ends in a newline ends its line."""
    width_of = _ruler()
    lines: list[list[_Word]] = [[]]
    x = 0.0
    for token, weight in zip(text.tokens, text.weights, strict=True):
        shown = _visible(token)
        width, bare = width_of(shown), shown.strip(" ")
        if lines[-1] and x + width > WIDTH:
            lines.append([])
            x = 0.0
        text_x = x + width_of(" ") * (len(shown) - len(shown.lstrip(" ")))
        lines[-1].append(_Word(bare, text_x, weight, x, width))
        x += width
        if token.endswith("\n"):
            lines.append([])
            x = 0.0
    return [line for line in lines if line]


def _ruler() -> Callable[[str], float]:
    """Measures a text in inches, in the font that matplotlib brings along."""
    from matplotlib.font_manager import findfont  # pyright: ignore[reportUnknownVariableType]
    from PIL import ImageFont

    file = cast("Callable[[str], str]", findfont)("DejaVu Sans")
    font = ImageFont.truetype(file, 100)
    return lambda text: font.getlength(text) / 100 * TEXT_SIZE / 72


def _visible(token: str) -> str:
    """The token with signs for what has none; what a font may not have, and what XML forbids, as an escape."""
    signs = (GLYPHS.get(c, c) for c in token)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in signs)
