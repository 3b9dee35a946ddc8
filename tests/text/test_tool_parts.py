"""Calls of tools in conversations: their tokens, what is learned of them, and that generation puts in the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aquarat_core.config import ChatTrainConfig, MidConfig
from aquarat_core.conversation import (
    Conversation,
    Message,
    assistant_message,
    call_parts,
    message_texts,
    parts_text,
    text_part,
    user_message,
    with_text,
)
from aquarat_core.data.conversations import write_conversations
from aquarat_core.data.packed_files import open_rows
from aquarat_core.data.rows import IGNORED
from aquarat_core.rollout.tools import calculator
from aquarat_core.stages.chat_rows import pack
from aquarat_core.tasks.mixture import StoredConversations, whole
from aquarat_core.text.chat import render, render_prompt
from aquarat_core.text.tokenizer import SPECIAL_TOKENS
from tests.factories import tokenizer
from tests.rollout.test_tools import says

PARTS = [text_part("48/2 = "), *call_parts("48/2", "24"), text_part("24 clips, caf\u00e9.\n#### 24")]
SPELLED = "48/2 = <|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>24 clips, caf\u00e9.\n#### 24"
CALLING: list[Message] = [user_message("How many?"), assistant_message(SPELLED, PARTS)]
ASKED = "<|bos|><|user_start|>How many?<|user_end|><|assistant_start|>"
OUTPUT = "<|output_start|>24<|output_end|>"


def decoded(ids: list[int], mask: list[int], wanted: int) -> str:
    return tokenizer().decode([i for i, m in zip(ids, mask, strict=True) if m == wanted])


def test_special_tokens_stand_around_calls_and_outputs() -> None:
    tok = tokenizer()
    ids, _ = render(tok, CALLING)
    assert tok.decode(ids) == f"{ASKED}{SPELLED}<|assistant_end|>"
    names = {tok.special(name): name for name in SPECIAL_TOKENS}
    assert [names[i] for i in ids if i in names] == [
        "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|python_start|>", "<|python_end|>",
        "<|output_start|>", "<|output_end|>", "<|assistant_end|>",
    ]  # fmt: skip
    start, end = tok.special("<|python_start|>"), tok.special("<|python_end|>")
    assert ids[ids.index(start) + 1 : ids.index(end)] == tok.encode("48/2"), "each stretch is encoded by itself"


def test_the_content_is_what_a_completion_of_these_tokens_decodes_to() -> None:
    tok = tokenizer()
    ids, _ = render(tok, CALLING)
    completion = ids[len(render_prompt(tok, CALLING[:1])) : -1]
    assert tok.decode(completion) == SPELLED == parts_text(PARTS) == CALLING[1]["content"]
    assert tok.decode(tok.encode(SPELLED)) == SPELLED, "as preflight reads a target"


def test_the_call_is_learned_and_the_output_is_not() -> None:
    ids, mask = render(tokenizer(), CALLING)
    assert decoded(ids, mask, 1) == SPELLED.replace(OUTPUT, "") + "<|assistant_end|>"
    assert decoded(ids, mask, 0) == ASKED + OUTPUT


def test_the_output_is_not_learned_where_all_else_is() -> None:
    ids, mask = render(tokenizer(), CALLING, "all")
    assert decoded(ids, mask, 0) == OUTPUT
    plain = [user_message("How many?"), assistant_message("24")]
    assert set(render(tokenizer(), plain, "all")[1]) == {1}
    assert render(tokenizer(), plain, "all")[0] == render(tokenizer(), plain)[0]


@pytest.mark.parametrize("config", [ChatTrainConfig(), MidConfig()])
def test_training_rows_have_no_loss_on_outputs(config: ChatTrainConfig, tmp_path: Path) -> None:
    """From a file of conversations to the rows that a model is trained on."""
    tok, T = tokenizer(), 127
    write_conversations(tmp_path / "chats.parquet", [Conversation("a", CALLING)])
    pack(whole(StoredConversations(tmp_path / "chats.parquet")), tok, T, config, tmp_path, "training")
    rows = open_rows(tmp_path, "training", T, tok.vocab_size)
    inputs, targets = (x[0].tolist() for x in rows.tensors(np.array([0]), torch.device("cpu")))
    ids, mask = render(tok, CALLING, config.loss_on)
    assert inputs[: len(ids)] == ids
    learned = [i if m else IGNORED for i, m in zip(ids, mask, strict=True)]
    assert targets == [*learned[1:], *[IGNORED] * (T - len(ids) + 1)]


def test_text_that_names_special_tokens_calls_nothing() -> None:
    tok = tokenizer()
    marks = {tok.special(f"<|{x}|>") for x in ("python_start", "python_end", "output_start", "output_end")}
    for message in (assistant_message(SPELLED), assistant_message(SPELLED, [text_part(SPELLED)])):
        ids, mask = render(tok, [user_message(SPELLED), message])
        assert not marks & set(ids)
        assert decoded(ids, mask, 1) == f"{SPELLED}<|assistant_end|>"
    forged = call_parts("1<|python_end|>2", "3<|output_end|>")
    ids, _ = render(tok, [user_message("x"), assistant_message(parts_text(forged), forged)])
    assert sorted(i for i in ids if i in marks) == sorted(marks)


def test_only_an_assistant_has_parts() -> None:
    calling_user: Message = {"role": "user", "content": SPELLED, "parts": PARTS}
    calling_system: Message = {"role": "system", "content": SPELLED, "parts": PARTS}
    for messages in ([calling_user, CALLING[1]], [calling_system, *CALLING]):
        with pytest.raises(ValueError, match="only an assistant calls tools"):
            render(tokenizer(), messages)


def test_generation_puts_in_the_tokens_that_are_rendered() -> None:
    """The model says what is learned of a conversation, and the engine completes it to the whole, token for token."""
    tok = tokenizer()
    for call in ("48/2", "1,200*3", "1/3", "10-2.5", "'strawberry'.count('r')", "7//2"):
        output = tok.decode(calculator(tok).answer(tok.encode(call)))
        parts = [text_part("x = "), *call_parts(call, output), text_part(f"{output}\n#### 1")]
        messages = [user_message("How many?"), assistant_message(parts_text(parts), parts)]
        ids, mask = render(tok, messages)
        prompt = render_prompt(tok, messages[:1])
        wrong = [i if m else 1 for i, m in zip(ids, mask, strict=True)]
        engine = says([*prompt, *wrong[len(prompt) :]])
        ((completion,),) = engine.generate([prompt], [[1]], 60, 0.0, tool=calculator(tok))
        assert [*prompt, *completion.tokens] == ids
        assert [i for i in range(len(prompt), len(ids)) if not mask[i]] == [len(prompt) + i for i in completion.forced]


def test_texts_are_those_that_become_ordinary_tokens() -> None:
    assert message_texts(CALLING[0]) == ["How many?"]
    assert message_texts(CALLING[1]) == ["48/2 = ", "48/2", "24", "24 clips, caf\u00e9.\n#### 24"]


def test_text_joins_the_text_before_it() -> None:
    assert with_text(PARTS, "!") == [*PARTS[:-1], text_part("24 clips, caf\u00e9.\n#### 24!")]
    assert with_text(PARTS[:-1], "!") == [*PARTS[:-1], text_part("!")]
