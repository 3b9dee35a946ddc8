"""What the page says about a model's inside, and how it is drawn."""

from __future__ import annotations

import re
import warnings
from xml.etree import ElementTree

import pytest

from aquarat_core.config.interpret import InterpretConfig
from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation import plots
from aquarat_core.evaluation.interpret import figures
from aquarat_core.evaluation.interpret.analysis import interpret
from aquarat_core.evaluation.interpret.attention import HeadMap
from aquarat_core.evaluation.interpret.induction import Induction
from aquarat_core.evaluation.interpret.lens import Lens
from aquarat_core.evaluation.interpret.section import (
    induction_sentence,
    interpretability_section,
    lens_sentence,
    strongest_heads,
)
from aquarat_core.tasks.gsm8k import Gsm8kTask
from tests.evaluation.interpret.test_analysis import OPEN
from tests.factories import AQUA, examples, random_model, tokenizer

CONFIG = InterpretConfig(questions=3, maps=1, sequences=2, repeated_tokens=12)
TEXT = "{http://www.w3.org/2000/svg}text"


def result(task=AQUA, asked=None, **config):
    model = random_model(tokenizer().vocab_size, **({"sequence_len": 256} | config))
    return interpret(model, tokenizer(), task, asked or examples(), CONFIG)


def test_a_section_has_four_figures_in_light_and_dark() -> None:
    blocks = interpretability_section(result())
    assert isinstance(blocks[0], doc.Heading) and "drawn by seed 40" in blocks[1].text
    drawn = [b for b in blocks if isinstance(b, doc.Figure)]
    assert len(drawn) == 4
    for figure in drawn:
        assert "var(--series-1)" in figure.svg and plots.SERIES[0] not in figure.svg
        assert "--width: 509px" in figure.svg
        assert figure.png.startswith("data:image/png;base64,") and len(figure.caption) > 100
        ElementTree.fromstring(figure.svg)
    ids = [set(re.findall(r'\bid="([^"]+)"', f.svg)) for f in drawn]
    assert sum(map(len, ids)) == len(set.union(*ids))
    page = doc.Document("t", "s", tuple(blocks))
    assert "Inside the model" in page.to_html() and "Inside the model" in page.to_markdown()


def test_the_same_result_is_the_same_page() -> None:
    found = result()
    assert interpretability_section(found) == interpretability_section(found)


def test_what_is_absent_is_named_with_its_reason() -> None:
    blocks = interpretability_section(result(Gsm8kTask(), OPEN))
    said = [b.text for b in blocks if isinstance(b, doc.Paragraph)]
    assert said[1].startswith("Not shown: the letters by layer, because answers to this task are open")
    assert "up to the reply" in said[0] and len([b for b in blocks if isinstance(b, doc.Figure)]) == 3
    none = interpretability_section(result(sequence_len=16))
    (why,) = [b.text for b in none if isinstance(b, doc.Paragraph) and b.text.startswith("Not shown")]
    assert why.startswith(
        "Not shown: attention, the maps of heads, the letters by layer, because none of the 60 questions"
    )


def lens(*accuracy: float) -> Lens:
    rest = [0.5] * len(accuracy)
    return Lens(letters=list("ABCDE"), accuracy=[*accuracy], gold_probability=rest, entropy=rest, letter_mass=rest)


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        ((0.2, 0.25, 0.8, 0.85), "leads in 85% of the questions (guessing: 20%); after layer 1 it is 80% already."),
        ((0.2, 0.25, 0.3, 0.85), "leads in 85% of the questions (guessing: 20%); no layer before comes near that."),
        ((0.2, 0.8, 0.4, 0.5), "of the questions (guessing: 20%), and more often, in 80%, after layer 0."),
        (
            (0.2, 0.22, 0.2, 0.19),
            "leads in 19% of the questions (guessing: 20%); no layer knows much more than a guess.",
        ),
        ((0.9, 0.9), "after the embeddings it is 90% already."),
    ],
)
def test_where_the_answer_arises(accuracy: tuple[float, ...], said: str) -> None:
    assert lens_sentence(lens(*accuracy)).endswith(said)


def test_heads_that_copy_are_named_and_others_are_not() -> None:
    def found(score: float, second: float) -> Induction:
        flat = [[0.01, 0.02], [0.01, 0.01]]
        return Induction(
            sequences=8, repeated_tokens=64, induction=[[0.01, 0.02], [score, 0.01]], matching=flat, previous=flat,
            uniform=[0.01, 0.01], loss_first=7.0, loss_second=second,
        )  # fmt: skip

    copies = induction_sentence(found(0.8, 0.5))
    assert copies.startswith("Random tokens that come a second time are 6.50 nats a token easier to predict")
    what = "of its attention to the token that is to be repeated next (spread evenly: 1.0%)."
    assert copies.endswith(f"The strongest induction head, L1H0, gives 80.0% {what}")
    assert "0.10 nats a token harder" in induction_sentence(found(0.01, 7.1))
    assert "No head copies: at most, in L0H1, 2.0% of the attention" in induction_sentence(found(0.01, 7.1))


def test_the_heads_drawn_look_at_one_token_that_is_not_first_or_last() -> None:
    weights = [[[0.9, 0.1, 0.0], [0.0, 0.7, 0.3]], [[0.0, 0.0, 1.0], [0.2, 0.3, 0.5]]]
    seen = HeadMap(id="q", tokens=["a", "b", "c"], cut=0, weights=weights)
    assert strongest_heads(seen) == [(0, 1), (1, 1), (0, 0)]
    assert strongest_heads({**seen, "cut": 5})[0] == (0, 0)  # the first token of the text is not among them


def test_text_of_any_kind_is_drawn_as_it_is() -> None:
    tokens = ["<script>", " $x_1$", " &", "\n", "\x00", "\t", "\\xe2", " 問", "\u202e", " ", "end"]
    text = figures.TextMap("L0H0: $1$ on <b>", tokens, [0.5, 0.0, 0.1, 0, 0, 0, 0, 0, 0, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a sign that matplotlib's font has not, and a page's font has
        svg = plots.to_svg(figures.draw_texts([text]), "x")
    said = [node.text for node in ElementTree.fromstring(svg).iter(TEXT)]
    assert said == ["L0H0: $1$ on <b>", "<script>", "$x_1$", "&", "↵", "\\x00", "→", "\\xe2", "問", "\\u202e", "end"]


def test_long_lines_are_broken_and_many_heads_are_not_numbered() -> None:
    words = figures._lines(figures.TextMap("t", [" word"] * 100, [0.01] * 100))
    assert len(words) > 3 and all(w.x + w.width <= figures.WIDTH for line in words for w in line)
    many = figures.HeatMap("Spread", [[0.5] * 20] * 20)
    said = [n.text for n in ElementTree.fromstring(plots.to_svg(figures.draw_heat_maps([many], 1), "x")).iter(TEXT)]
    assert sorted(said) == sorted(["Spread", "head", "layer", *(2 * [str(i) for i in range(0, 20, 2)])])
