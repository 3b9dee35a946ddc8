"""The section of an eval report's page on what happens inside the checkpoint, in words that need no background."""

from __future__ import annotations

import math

from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation import plots
from aquarat_core.evaluation.interpret import figures
from aquarat_core.evaluation.interpret.analysis import Interpretability
from aquarat_core.evaluation.interpret.attention import Attention, HeadMap
from aquarat_core.evaluation.interpret.induction import Induction
from aquarat_core.evaluation.interpret.lens import Lens

HEADING = "Inside the model"
N_TEXTS = 3
"""Heads whose view of a question is drawn."""
NEARLY = 0.9
"""A layer from which the answer can be read nearly as often as from the best one."""
BEYOND_GUESSING = 1.5
"""Times guessing: below it nothing is said about where the answer arises."""
COPYING = 5.0
"""Times an even spread: below it no head is called one that copies."""


def interpretability_section(result: Interpretability) -> list[doc.Block]:
    """Heading, introduction, and a figure with its finding for each part; a part that is absent is named with its
    reason."""
    blocks: list[doc.Block] = [doc.Heading(HEADING), doc.Paragraph(_introduction(result))]
    blocks += [doc.Paragraph(f"Not shown: {text}.") for text in _absent(result)]
    if lens := result["lens"]:
        blocks += [doc.Paragraph(lens_sentence(lens), tone="finding"), _lens_figure(lens)]
    if attention := result["attention"]:
        blocks.append(_attention_figure(attention, result["position"]))
    if result["maps"]:
        blocks.append(_map_figure(result["maps"][0]))
    if induction := result["induction"]:
        blocks += [doc.Paragraph(induction_sentence(induction), tone="finding"), _induction_figure(induction)]
    return blocks


def _introduction(result: Interpretability) -> str:
    left_out = result["left_out"]
    passed = f" ({left_out:,} drawn ones could not be used)" if left_out else ""
    place = (
        "each with its solution up to the letter of the answer, which is the place meant by “at the answer”"
        if result["position"] == "before the letter"
        else "each up to the reply, whose beginning is the place meant by “at the answer”"
    )
    return (
        f"{len(result['questions']):,} questions, drawn by seed {result['settings']['seed']}{passed}, {place}. "
        "L2H1 is head 1 of layer 2; both are counted from 0."
    )


def _absent(result: Interpretability) -> list[str]:
    """What is not there and why; equal reasons are told once."""
    names = {
        "attention": "attention",
        "maps": "the maps of heads",
        "lens": "the letters by layer",
        "induction": "induction",
    }
    parts: dict[str, list[str]] = {}
    for part, reason in result["absent"].items():
        parts.setdefault(reason, []).append(names[part])
    return [f"{', '.join(found)}, because {reason}" for reason, found in parts.items()]


def lens_sentence(lens: Lens) -> str:
    """How often the answer is there at the end, and from which layer on."""
    accuracy, guessing = lens["accuracy"], 1 / len(lens["letters"])
    best = max(accuracy)
    last = (
        f"After the last layer the right letter leads in {accuracy[-1]:.0%} of the questions (guessing: {guessing:.0%})"
    )
    if best < BEYOND_GUESSING * guessing:
        return f"{last}; no layer knows much more than a guess."
    if accuracy[-1] < NEARLY * best:
        return f"{last}, and more often, in {best:.0%}, after {_layer(accuracy.index(best))}."
    first = next(i for i, share in enumerate(accuracy) if share >= NEARLY * best)
    if first == len(accuracy) - 1:
        return f"{last}; no layer before comes near that."
    return f"{last}; after {_layer(first)} it is {accuracy[first]:.0%} already."


def _layer(i: int) -> str:
    return f"layer {i - 1}" if i else "the embeddings"


def _lens_figure(lens: Lens) -> doc.Figure:
    n = len(lens["letters"])
    curves = (
        figures.Curve("right letter is the most likely", lens["accuracy"]),
        figures.Curve("probability of the right letter", lens["gold_probability"]),
        figures.Curve("indecision between the letters", [e / math.log(n) for e in lens["entropy"]]),
        figures.Curve("probability that a letter comes", lens["letter_mass"]),
    )
    caption = (
        "What the model would answer if it stopped after each layer, read off by its own output layer (“logit lens”). "
        "Where the blue and orange lines rise, the answer is being found. Indecision is the entropy of the letters: 1 "
        "is an even guess, 0 is certain. Before the last layer the reading is rough: only the last is trained for "
        "it."
    )
    return _figure(figures.draw_lens(curves, 1 / n), "lens", caption)


def _attention_figure(attention: Attention, position: str) -> doc.Figure:
    place = "at the answer"
    distance, at_answer = attention["distance"], attention["distance_at_answer"]
    farthest = max(max(map(max, distance)), max(map(max, at_answer)))
    maps = (
        figures.HeatMap("Spread, all tokens", attention["entropy"]),
        figures.HeatMap(f"Spread {place}", attention["entropy_at_answer"]),
        figures.HeatMap("Distance, all tokens", distance, farthest, 0),
        figures.HeatMap(f"Distance {place}", at_answer, farthest, 0),
        figures.HeatMap("On the first token, all tokens", attention["first_token"]),
        figures.HeatMap(f"On the first token {place}", attention["first_token_at_answer"]),
    )
    caption = (
        "How each head distributes its attention; the fuller the color, the larger the value. Spread is the entropy as "
        "a share of its maximum: 0 looks at a single token, 1 at all tokens alike. Distance is how many tokens back "
        f"the attention goes on average (full color: {farthest:.0f}). The first token says nothing: a head that puts "
        "its attention there has nothing to do."
    )
    return _figure(figures.draw_heat_maps(maps, 2), "attention", caption)


def _map_figure(found: HeadMap) -> doc.Figure:
    texts = [_text_map(found, layer, head) for layer, head in strongest_heads(found)]
    cut = f" The first {found['cut']:,} tokens are cut off here." if found["cut"] else ""
    caption = (
        f"Question {found['id']}, and which of its tokens the model looks at from the end of the text, where it is "
        "about to write the next token. Shown are the heads that look hardest at a single token, first and last aside; "
        f"the fuller the color, the more attention.{cut} The view of every head is in interpretability.json."
    )
    return _figure(figures.draw_texts(texts), "head-map", caption)


def _text_map(found: HeadMap, layer: int, head: int) -> figures.TextMap:
    weights = found["weights"][layer][head]
    top = max(range(len(weights)), key=weights.__getitem__)
    word = found["tokens"][top].strip() or "a blank"
    return figures.TextMap(f"L{layer}H{head}: {weights[top]:.0%} on “{word}”", found["tokens"], weights)


def strongest_heads(found: HeadMap) -> list[tuple[int, int]]:
    """(layer, head) of the `N_TEXTS` heads with the largest weight on one token that is neither the text's first, where
    idle heads look, nor the one that looks."""
    skipped = 0 if found["cut"] else 1
    largest = {
        (layer, head): max(weights[skipped:-1], default=0.0)
        for layer, row in enumerate(found["weights"])
        for head, weights in enumerate(row)
    }
    return sorted(largest, key=lambda at: (-largest[at], at))[:N_TEXTS]


def induction_sentence(found: Induction) -> str:
    """Whether the model copies, and by which head."""
    layer, head, score = _largest(found["induction"])
    uniform = found["uniform"][layer]
    gain = found["loss_first"] - found["loss_second"]
    verdict = f"{abs(gain):.2f} nats a token {'easier' if gain > 0 else 'harder'} to predict than the first time"
    what = "of its attention to the token that is to be repeated next"
    evenly = f"(spread evenly: {uniform:.1%})"
    finding = (
        f"No head copies: at most, in L{layer}H{head}, {score:.1%} {what.replace('its', 'the')} {evenly}"
        if score < COPYING * uniform
        else f"The strongest induction head, L{layer}H{head}, gives {score:.1%} {what} {evenly}"
    )
    return (
        f"Random tokens that come a second time are {verdict} ({found['loss_second']:.2f} after "
        f"{found['loss_first']:.2f}). {finding}."
    )


def _largest(values: list[list[float]]) -> tuple[int, int, float]:
    value, layer, head = max((v, -i, -j) for i, row in enumerate(values) for j, v in enumerate(row))
    return -layer, -head, value


def _induction_figure(found: Induction) -> doc.Figure:
    maps = (
        figures.HeatMap("Next after the match", found["induction"]),
        figures.HeatMap("The match itself", found["matching"]),
        figures.HeatMap("The token before", found["previous"]),
    )
    caption = (
        f"{found['sequences']:,} sequences of {found['repeated_tokens']:,} random tokens, each said twice. Shares of "
        "the attention, while the second half is read, that go to three places. “Next after the match” looks at what "
        "followed the same token the first time, which is how a model copies (induction). “The match itself” looks at "
        "that same token, “the token before” at the one just read, from which induction is built."
    )
    return _figure(figures.draw_heat_maps(maps, 3), "induction", caption)


def _figure(drawing: figures.Figure, prefix: str, caption: str) -> doc.Figure:
    return doc.Figure(plots.to_svg(drawing, prefix), plots.to_png_data_uri(drawing), caption)
