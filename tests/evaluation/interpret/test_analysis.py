"""The whole look into a model: what is drawn, what is left out and why, and that it is JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from aquarat_core.config.interpret import InterpretConfig
from aquarat_core.conversation import Conversation, assistant_message, user_message
from aquarat_core.evaluation.interpret.analysis import findings, interpret
from aquarat_core.evaluation.interpret.batch import draw, letter_context, open_context, shuffled
from aquarat_core.evaluation.letters import letter_ids, letter_logits
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.tasks.gsm8k import Gsm8kTask
from aquarat_core.tasks.gsm8k import to_example as to_word_problem
from aquarat_core.text.chat import render, render_prompt
from tests.evaluation.interpret.test_watching import every_option
from tests.factories import AQUA, examples, questions, random_model, tokenizer

CONFIG = InterpretConfig(questions=5, maps=2, sequences=2, repeated_tokens=12)
OPEN = [
    to_word_problem(
        Conversation(f"q{i}", [user_message(f"What is {i} + 2?"), assistant_message(f"{i + 2}.\n#### {i + 2}")])
    )
    for i in range(9)
]


def model_of(**config):
    return random_model(tokenizer().vocab_size, **({"sequence_len": 256} | config))


@every_option
def test_everything_is_there_for_every_kind_of_model(config: dict) -> None:
    model = model_of(**config)
    found = interpret(model, tokenizer(), AQUA, examples(), CONFIG)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == interpret(model, tokenizer(), AQUA, examples(), CONFIG)
    assert found["absent"] == {} and found["position"] == "before the letter" and found["task"] == "aqua"
    assert (len(set(found["questions"])), len(found["maps"])) == (5, 2)
    assert {e.id for e in examples()} >= set(found["questions"])
    for name, values in found["attention"].items():
        assert [len(row) for row in values] == [4, 4], name
        assert name.startswith("distance") or all(0 < x <= 1 for row in values for x in row)
    assert found["induction"]["repeated_tokens"] == 12
    for seen, id_ in zip(found["maps"], found["questions"], strict=False):
        assert seen["id"] == id_ and "".join(seen["tokens"]).endswith("Answer:")
        for row in seen["weights"]:
            assert all(sum(weights) == pytest.approx(1.0, abs=0.02) for weights in row)


def test_the_lens_ends_in_the_models_own_letters() -> None:
    model, ids = model_of(), letter_ids(tokenizer(), AQUA)
    found = interpret(model, tokenizer(), AQUA, examples(), CONFIG)
    asked = [next(e for e in examples() if e.id == id_) for id_ in found["questions"]]
    contexts = [letter_context(AQUA, e, tokenizer(), ids) for e in asked]
    p = torch.softmax(letter_logits(model, [c.ids for c in contexts], ids), dim=1)
    gold = [c.gold for c in contexts]
    assert found["lens"]["letters"] == list("ABCDE")
    assert found["lens"]["gold_probability"][-1] == pytest.approx(float(p[range(5), gold].mean()), abs=1e-5)
    assert found["lens"]["accuracy"][-1] == sum(int(r.argmax()) == g for r, g in zip(p, gold, strict=True)) / 5


def test_seeds_draw_other_questions() -> None:
    drawn = [
        interpret(model_of(), tokenizer(), AQUA, examples(), CONFIG.model_copy(update={"seed": s})) for s in (1, 2)
    ]
    assert drawn[0]["questions"] != drawn[1]["questions"]
    assert drawn[0]["induction"] != drawn[1]["induction"]
    assert "maps" not in findings(drawn[0]) and findings(drawn[0])["lens"] == drawn[0]["lens"]


def test_open_answers_are_looked_at_before_the_reply() -> None:
    found = interpret(model_of(), tokenizer(), Gsm8kTask(), OPEN, CONFIG)
    assert found["position"] == "before the reply" and found["lens"] is None
    assert found["absent"] == {"lens": "answers to this task are open: there are no letters to choose from"}
    assert found["attention"] and found["induction"]
    assert all(seen["tokens"][-1] == "<|assistant_start|>" for seen in found["maps"]) and len(found["maps"]) == 2


def test_questions_that_fit_nowhere_leave_induction() -> None:
    found = interpret(model_of(sequence_len=16), tokenizer(), AQUA, examples(), CONFIG)
    assert (found["questions"], found["attention"], found["lens"], found["maps"]) == ([], None, None, [])
    reason = "none of the 60 questions can be used at a context of 16 tokens"
    assert found["absent"] == dict.fromkeys(("attention", "maps", "lens"), reason)
    assert found["left_out"] == 60 and found["induction"]["repeated_tokens"] == 7


def test_a_model_that_ran_away_is_told_and_does_not_stop_the_report() -> None:
    model = model_of()
    with torch.no_grad():
        model.blocks[1].attention.q.weight.fill_(math.nan)
    found = interpret(model, tokenizer(), AQUA, examples(), CONFIG)
    assert set(found["absent"].values()) == {"the model computes values that are not finite numbers"}
    assert set(found["absent"]) == {"attention", "maps", "lens", "induction"}
    json.dumps(found, allow_nan=False)


def test_contexts_stop_before_the_letter_with_a_solution_and_without() -> None:
    ids = letter_ids(tokenizer(), AQUA)
    example = examples()[0]
    context = letter_context(AQUA, example, tokenizer(), ids)
    whole, _ = render(tokenizer(), example.conversation())
    assert context.ids == whole[:-2] and whole[-2] == ids[context.gold]
    untaught = letter_context(AQUA, replace(example, target=None), tokenizer(), ids)
    assert untaught.ids == render_prompt(tokenizer(), example.messages) + tokenizer().encode("Answer:")
    assert open_context(OPEN[0], tokenizer()).ids[-1] == tokenizer().special("<|assistant_start|>")
    named = to_example(replace(questions()[0], rationale="Option B is right."))
    assert letter_context(AQUA, named, tokenizer(), ids) is None
    assert letter_context(AQUA, example, tokenizer(), ids[:4]) is None


def test_drawing_passes_over_what_cannot_be_used() -> None:
    ids = letter_ids(tokenizer(), AQUA)
    contexts = [letter_context(AQUA, e, tokenizer(), ids) for e in examples()[:6]]
    room = sorted(len(c.ids) for c in contexts)[2]
    fitting = [c for c in contexts if len(c.ids) <= room]
    assert room in {len(c.ids) for c in fitting} and len(fitting) < 6
    drawn = draw([None, *contexts], 6, room)
    assert (drawn.contexts, drawn.left_out) == (fitting, 1 + 6 - len(fitting))
    assert draw([None, *contexts], 2, room).contexts == fitting[:2]
    assert sorted(e.id for e in shuffled(examples(), 3)) == sorted(e.id for e in examples())
