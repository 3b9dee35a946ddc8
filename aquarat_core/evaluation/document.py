"""A report as a list of blocks, written once and rendered twice: a self-contained HTML page and Markdown.

Model output and data set text go through here, so every string is escaped; only figures, which are ours, are inserted
as they are. The page loads nothing from anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal
from urllib.parse import quote

from aquarat_core.evaluation.stylesheet import STYLESHEET
from aquarat_core.plain_text import fenced


@dataclass(frozen=True, slots=True)
class Heading:
    """A section's heading."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text; `tone` sets it apart as a finding or a warning."""

    text: str
    tone: Literal["plain", "finding", "warning"] = "plain"


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that a reader should see first, with a note on how to read it."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Tiles:
    """Several tiles in a row."""

    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; columns whose number is in `text_columns` are left-aligned, the others hold numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: tuple[int, ...] = (0,)
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing: SVG for the page, a PNG data address for Markdown."""

    svg: str
    png: str
    caption: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One question and what the model said to it."""

    title: str
    verdict: Literal["right", "wrong", "no answer"]
    question: str
    completion: str
    evaluation: str = ""
    """The evaluation that the question belongs to, and the question's id: its link in the page, and in the explorer."""
    id: str = ""
    sample: int = 0

    @property
    def anchor(self) -> str:
        """The fragment of the page's address that leads to this sample; empty without an id."""
        return "-".join(_quoted(str(part)) for part in (self.evaluation, self.id, self.sample)) if self.id else ""


@dataclass(frozen=True, slots=True)
class Code:
    """A program, in its language's name for syntax highlighting."""

    text: str
    language: str = "python"


@dataclass(frozen=True, slots=True)
class Details:
    """Samples that a reader can unfold; Markdown cannot fold, so it only names them."""

    title: str
    samples: tuple[Sample, ...]


Block = Heading | Paragraph | Tiles | Table | Figure | Sample | Code | Details


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    blocks: tuple[Block, ...]

    def to_html(self) -> str:
        """A complete page that needs no other file."""
        body = "\n".join(_html(block) for block in self.blocks)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLESHEET}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{escape(self.title)}</h1><p>{escape(self.subtitle)}</p></header>\n{body}\n</main>\n</body>\n</html>\n"
        )

    def to_markdown(self) -> str:
        """GitHub-flavoured Markdown; figures as data addresses, which Dagster shows in an asset's metadata."""
        head = f"# {_md(self.title)}\n\n{_md(self.subtitle)}"
        return "\n\n".join([head, *(_markdown(block) for block in self.blocks)]) + "\n"


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text, tone):
            return f'<p class="{tone}">{escape(text)}</p>'
        case Tiles(tiles):
            cells = "".join(
                f'<div class="tile"><span class="label">{escape(t.label)}</span>'
                f'<span class="value">{escape(t.value)}</span><span class="note">{escape(t.note)}</span></div>'
                for t in tiles
            )
            return f'<div class="tiles">{cells}</div>'
        case Table():
            return _html_table(block)
        case Figure(svg, _, caption):
            # On a phone it scrolls, as tables do: keys reach what can take the focus.
            return f'<figure tabindex="0">{svg}<figcaption>{escape(caption)}</figcaption></figure>'
        case Sample(title, verdict, question, completion):
            return (
                f'<article class="sample"{_anchor(block)}><h3>{_title(block)} '
                f'<span class="badge {verdict.replace(" ", "-")}">{verdict}</span></h3><div class="pair">'
                f"<pre>{escape(question)}</pre><pre>{escape(completion)}</pre></div>{_place(block)}</article>"
            )
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Details(title, samples):
            inner = "\n".join(map(_html, samples))
            return f"<details><summary>{escape(title)}</summary>\n{inner}\n</details>"


def linked(html: str, explorer: str) -> str:
    """A page with links to the explorer at that address, which ends in the beginning of its query.

    In the stored page their places are comments, so that a page that is read as a file has no dead links.
    """
    before, after = f'<p class="explore"><a href="{escape(explorer)}&amp;', '">In the explorer</a></p>'
    return _PLACE.sub(lambda place: f"{before}{place[1]}{after}", html)


_PLACE = re.compile(r"<!--explore (evaluation=[A-Za-z0-9._%]*&amp;question=[A-Za-z0-9._%]*&amp;sample=[0-9]*)-->")


def _place(sample: Sample) -> str:
    if not sample.id:
        return ""
    query = f"evaluation={_quoted(sample.evaluation)}&amp;question={_quoted(sample.id)}&amp;sample={sample.sample}"
    return f"<!--explore {query}-->"


def _anchor(sample: Sample) -> str:
    return f' id="{sample.anchor}"' if sample.id else ""


def _title(sample: Sample) -> str:
    return f'<a href="#{sample.anchor}">{escape(sample.title)}</a>' if sample.id else escape(sample.title)


def _quoted(text: str) -> str:
    """`text` as part of a URL, without characters that end a comment."""
    return quote(text, safe="").replace("-", "%2D").replace("~", "%7E")


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ["text" if i in table.text_columns else "number" for i in range(len(cells))]
        inner = (f'<{tag} class="{k}">{escape(c)}</{tag}>' for k, c in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    # Outside of what scrolls: a caption in a table is as wide as the table, and on a phone its end is out of sight.
    caption = f'<p class="caption">{escape(table.caption)}</p>' if table.caption else ""
    body = "\n".join(row(cells, "td") for cells in table.rows)
    scrolled = f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.caption or "Table")}">'
    return f"{caption}{scrolled}<table><thead>{row(table.header, 'th')}</thead><tbody>\n{body}\n</tbody></table></div>"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_md(text)}"
        case Paragraph(text, tone):
            return f"> {_md(text)}" if tone != "plain" else _md(text)
        case Tiles(tiles):
            return _markdown_table(Table(("", "", ""), tuple((t.label, t.value, t.note) for t in tiles), (0, 1, 2)))
        case Table():
            return (f"{_md(block.caption)}\n\n" if block.caption else "") + _markdown_table(block)
        case Figure(_, png, caption):
            return f"![{_md(caption)}]({png})\n\n{_md(caption)}"
        case Sample(title, verdict, question, completion):
            return f"**{_md(title)}: {verdict}**\n\n{fenced(question)}\n\n{fenced(completion)}"
        case Code(text, language):
            return fenced(text, language)
        case Details(title):
            return f"{_md(title)}: in the HTML page and in questions.parquet."


def _markdown_table(table: Table) -> str:
    rule = [":--" if i in table.text_columns else "--:" for i in range(len(table.header))]
    lines = [[_md(c) for c in table.header], rule, *([_md(c) for c in row] for row in table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _md(text: str) -> str:
    """`text` with everything Markdown or HTML would read as markup made literal, on one line."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*\[\]|~#]|(?<!\w)_|_(?!\w))", r"\\\1", escape(one_line, quote=False))
