"""Conversations rendered many at once are those that `render` gives one by one, and long ones follow a stated rule."""

from __future__ import annotations

import random
from typing import Any, Literal

import numpy as np
import pytest

from aquarat_core.conversation import Message, assistant_message, user_message
from aquarat_core.data.packed_files import Rendered
from aquarat_core.data.turns import Turns
from aquarat_core.text import batch_chat
from aquarat_core.text.batch_chat import ChatRenderer
from aquarat_core.text.chat import render
from tests.factories import tokenizer

ROOM = 40
EVERYTHING = 1_000_000


def chats(n: int, seed: int) -> list[list[Message]]:
    """Of one to four pairs, some after a system message, some with empty texts."""
    draw = random.Random(seed)
    made: list[list[Message]] = []
    for _ in range(n):
        messages: list[Message] = []
        if draw.random() < 0.3:
            messages.append({"role": "system", "content": "Be brief. é\n" * draw.randint(0, 2)})
        for _ in range(draw.randint(1, 4)):
            messages.append(user_message("What is 12 + 7? <|bos|> " * draw.randint(0, 3)))
            messages.append(assistant_message("12 + 7 = 19 " * draw.randint(0, 4)))
        made.append(messages)
    return made


def split(rendered: Rendered) -> list[tuple[list[int], list[int]] | None]:
    """(ids, mask) of each conversation; None for one that is left out."""
    found: list[tuple[list[int], list[int]] | None] = []
    at = 0
    for fits, length in zip(rendered.fits.tolist(), rendered.lengths.tolist(), strict=True):
        part = slice(at, at + length * fits)
        found.append((rendered.ids[part].tolist(), rendered.mask[part].tolist()) if fits else None)
        at = part.stop
    assert at == len(rendered.ids) == len(rendered.mask)
    return found


def one_by_one(messages: list[Message], room: int, trims: bool, learns_all: bool) -> tuple[list[int], list[int]] | None:
    ids, mask = render(tokenizer(), messages)
    while trims and len(ids) > room and len(messages) > 3:
        messages = messages[:-2]
        ids, mask = render(tokenizer(), messages)
    if len(ids) > room:
        return None
    return ids, [1] * len(ids) if learns_all else mask


@pytest.mark.parametrize("room", [ROOM, EVERYTHING])
@pytest.mark.parametrize("too_long", ["leave_out", "trim"])
@pytest.mark.parametrize("loss_on", ["all", "assistant"])
def test_batches_are_what_render_gives(
    room: int, too_long: Literal["leave_out", "trim"], loss_on: Literal["all", "assistant"]
) -> None:
    given = chats(300, seed=1)
    rendered = ChatRenderer(tokenizer(), room, loss_on, too_long).render(Turns.of(given))
    assert split(rendered) == [one_by_one(c, room, too_long == "trim", loss_on == "all") for c in given]
    whole = [len(render(tokenizer(), c)[0]) for c in given]
    assert rendered.lengths[~rendered.fits].tolist() == [n for n, f in zip(whole, rendered.fits, strict=True) if not f]
    assert np.array_equal(rendered.trimmed, rendered.fits & (rendered.lengths < whole))
    assert rendered.trimmed.any() == (room == ROOM and too_long == "trim")
    assert rendered.fits.all() == (room == EVERYTHING)


def test_parts_keep_their_order_whatever_thread_renders_them() -> None:
    given = chats(200, seed=2)
    parts = [Turns.of(given[i : i + 7]) for i in range(0, 200, 7)]
    renderer = ChatRenderer(tokenizer(), EVERYTHING)
    found = [c for rendered in renderer.stream(iter(parts), threads=3) for c in split(rendered)]
    assert found == [render(tokenizer(), c) for c in given]


def test_messages_with_parts_are_rendered_one_by_one_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    given = chats(40, seed=3)
    with_parts: Any = {"role": "assistant", "content": "19", "parts": [{"type": "text", "text": "19"}]}
    for i in (0, 17, 18, 39):
        given[i][-1] = with_parts
    seen: list[list[Message]] = []

    def counted(tok: Any, messages: list[Message], loss_on: Any) -> tuple[list[int], list[int]]:
        seen.append(messages)
        return render(tok, messages, loss_on)

    monkeypatch.setattr(batch_chat, "render", counted)
    rendered = ChatRenderer(tokenizer(), EVERYTHING).render(Turns.of(given))
    assert split(rendered) == [render(tokenizer(), c) for c in given]
    assert seen == [given[i] for i in (0, 17, 18, 39)]


@pytest.mark.parametrize(
    "roles", [["user"], ["assistant", "user"], ["user", "assistant", "user"], ["user", "tool"], ["system"], []]
)
def test_what_is_no_conversation_is_refused_as_render_does(roles: list[str]) -> None:
    bad: list[Message] = [{"role": role, "content": "x"} for role in roles]
    with pytest.raises(ValueError, match=r"the conversation ends with the user|user and assistant in turn"):
        ChatRenderer(tokenizer(), EVERYTHING).render(Turns.of([*chats(3, seed=4), bad, *chats(3, seed=5)]))


def test_nothing_is_rendered_as_nothing() -> None:
    assert split(ChatRenderer(tokenizer(), ROOM).render(Turns.of([]))) == []
