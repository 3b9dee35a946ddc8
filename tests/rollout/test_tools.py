"""Calls of the calculator within generation."""

from __future__ import annotations

import torch

from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.tools import Calls, calculator
from tests.factories import random_model, tokenizer

START, END, OUT, DONE = (
    tokenizer().special(f"<|{x}|>") for x in ("python_start", "python_end", "output_start", "output_end")
)
STOP = tokenizer().special("<|assistant_end|>")


class Script(Transformer):
    """Says what it is told by how far it is, whatever it has read: position t is followed by script[t + 1]."""

    def hidden(self, ids_BT, cache=None):
        hidden = super().hidden(ids_BT, cache)
        at = cache.positions(ids_BT.size(1)).expand_as(ids_BT)
        return torch.nn.functional.one_hot(self.script[at + 1], self.config.dim).to(hidden.dtype)

    def softcap(self, raw):
        return 1000.0 * raw.float()


def says(script: list[int]) -> Engine:
    toy = random_model(tokenizer().vocab_size, width_per_layer=256, head_size=64, depth=2, sequence_len=256)
    model = Script(toy.config, toy.vocab_size)
    model.script = torch.tensor([*script, *[STOP] * 64])
    engine = Engine(model, [STOP])
    engine.model.script = model.script
    engine.model.head = torch.nn.Identity()
    return engine


def test_calls_are_answered_once_they_end() -> None:
    encode = tokenizer().encode
    calls, other = Calls(calculator(tokenizer())), Calls(calculator(tokenizer()))
    for token in [7, START, *encode("12*7")]:
        assert calls.pending() == -1
        calls.observe(token, False)
    assert calls.pending() == -1
    calls.observe(END, False)
    other.observe(END, False)  # ends a call that it has not begun
    expected = [OUT, *encode("84"), DONE]
    assert [(calls.pending(), other.pending()) for _ in expected] == [(token, -1) for token in expected]
    assert calls.pending() == -1


def test_what_cannot_be_calculated_is_answered_by_nothing() -> None:
    tool = calculator(tokenizer())
    assert tool.answer(tokenizer().encode("1/0")) == tool.answer(tokenizer().encode("open('x')")) == []


def test_the_output_is_put_in_the_models_mouth_and_marked() -> None:
    encode = tokenizer().encode
    call, output = [START, *encode("2+3"), END], [OUT, *encode("5"), DONE]
    prompt = [9, 8]
    ids = [*prompt, *call, *[1] * len(output), 5, STOP]
    assert max(encode("2+3") + encode("5")) < 512 and tokenizer().vocab_size <= 512
    engine = says(ids)
    for rows in (1, 2):
        groups = engine.generate([prompt], [[1, 2]], 40, 0.0, max_rows=rows, tool=calculator(tokenizer()))
        for completion in groups[0]:
            assert completion.tokens == [*call, *output, 5, STOP] and completion.ended
            assert completion.forced == tuple(range(len(call), len(call) + len(output)))
            assert all(completion.logprobs[i] == 0.0 for i in completion.forced)
    without = engine.generate([prompt], [[1]], 40, 0.0)[0][0]
    assert without.tokens == [*call, *[1] * len(output), 5, STOP] and without.forced == ()
