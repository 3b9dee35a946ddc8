"""A mixture as tokens, in batches. Conversations are equal to `text.chat.render` for each, plus the rule for long ones;
documents are those of `text.batch_documents`.

The tokenizer is called once for about a thousand messages, and numpy inserts special tokens and masks. Conversations
that columns cannot hold (`Turns.apart`), or that are invalid, go through `render` one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aquarat_core.conversation import Message
from aquarat_core.data.mixed_documents import Texts
from aquarat_core.data.packed_files import Rendered
from aquarat_core.data.parallel import mapped
from aquarat_core.data.turns import Ints, Turns, edges
from aquarat_core.text.batch_documents import render_documents
from aquarat_core.text.chat import render
from aquarat_core.text.tokenizer import Tokenizer

USER, ASSISTANT, SYSTEM, OTHER = range(4)
ROLES = {"user": USER, "assistant": ASSISTANT, "system": SYSTEM}
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ChatRenderer:
    """Converts the conversations and documents of one run to tokens."""

    tokenizer: Tokenizer
    room: int
    """Maximum number of ids in a conversation, or in a piece of a document."""
    loss_on: Literal["all", "assistant"] = "assistant"
    too_long: Literal["leave_out", "trim"] = "leave_out"
    """What to do with longer ones; `trim` cuts pairs of user and assistant from the end but keeps the first one."""

    def stream(self, parts: Iterable[Turns | Texts], threads: int | None = None) -> Iterator[Rendered]:
        """`render` of each part of conversations and `render_documents` of each part of documents, on `threads` threads
        (default: one per core)."""
        return mapped(self._part, parts, threads)

    def _part(self, part: Turns | Texts) -> Rendered:
        return render_documents(self.tokenizer, part, self.room) if isinstance(part, Texts) else self.render(part)

    def render(self, turns: Turns) -> Rendered:
        """All conversations of `turns`, in order.

        Raises `ValueError` unless user and assistant alternate in each, after at most one system message, and the last
        message is the assistant's.
        """
        columns = _Columns.of(turns)
        odd = sorted({*turns.apart, *np.flatnonzero(columns.irregular()).tolist()})
        if not odd:
            return self._together(columns)
        single = [self._alone(turns.messages(i)) for i in odd]
        is_odd = np.zeros(len(turns), np.bool_)
        is_odd[odd] = True
        return _interleaved(self._together(columns.take(~is_odd)), single, is_odd)

    def _alone(self, messages: list[Message]) -> Rendered:
        ids, mask = whole = render(self.tokenizer, messages, self.loss_on)
        length = len(ids)
        while self.too_long == "trim" and len(ids) > self.room and len(messages) > 3:
            messages = messages[:-2]
            ids, mask = render(self.tokenizer, messages, self.loss_on)
        fits = len(ids) <= self.room
        if not fits:
            ids, mask = [], []
        trimmed = fits and len(whole[0]) > len(ids)
        return Rendered(
            np.array(ids, np.int64),
            np.array(mask, np.uint8),
            np.array([len(ids) if fits else length]),
            np.array([fits]),
            np.array([trimmed]),
        )

    def _together(self, columns: _Columns) -> Rendered:
        """Regular conversations: message 2k is a user's, message 2k + 1 the assistant's reply."""
        tokens, offsets = self.tokenizer.encode_batch_to_numpy([columns.texts], threads=1)
        text_ids = np.diff(offsets)
        pairs = (text_ids + 2).reshape(-1, 2).sum(axis=1)
        first, total = columns.first // 2, edges(pairs)
        whole = 1 + np.diff(total[first])
        if self.too_long == "trim":
            # Ids from the BOS of its conversation to the end of each pair.
            kept = 1 + total[1:] - np.repeat(total[first[:-1]], np.diff(first)) <= self.room
        else:
            kept = np.repeat(whole <= self.room, np.diff(first))
        n_pairs = np.diff(edges(kept)[first])
        fits = n_pairs > 0
        lengths = np.where(fits, 1 + np.diff(edges(np.where(kept, pairs, 0))[first]), whole)
        messages = np.repeat(kept, 2)
        if not kept.all():
            tokens = tokens[np.repeat(messages, text_ids)]
        ids, mask = self._assemble(tokens, text_ids[messages], 2 * n_pairs[fits])
        if self.loss_on == "all":
            mask = np.ones(len(ids), np.uint8)
        return Rendered(ids, mask, lengths, fits, fits & (lengths < whole))

    def _assemble(
        self, tokens: npt.NDArray[np.integer], text_ids: Ints, n_messages: Ints
    ) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.uint8]]:
        """Ids and mask of conversations with `n_messages` [N] messages each; message texts have `text_ids` [M] of
        `tokens`."""
        n = len(tokens) + 2 * len(text_ids) + len(n_messages)
        before = np.repeat(np.arange(1, len(n_messages) + 1), n_messages)  # a BOS for each conversation so far
        starts = np.cumsum(text_ids + 2) - (text_ids + 2) + before
        ends = starts + text_ids + 1
        is_text = np.ones(n, np.bool_)
        ids = np.empty(n, tokens.dtype)
        for at, name in (
            (starts[edges(n_messages)[:-1]] - 1, "<|bos|>"),
            (starts[0::2], "<|user_start|>"),
            (ends[0::2], "<|user_end|>"),
            (starts[1::2], "<|assistant_start|>"),
            (ends[1::2], "<|assistant_end|>"),
        ):
            ids[at] = self.tokenizer.special(name)
            is_text[at] = False
        ids[is_text] = tokens
        # A reply is masked in from after its start token up to and including its end token.
        steps = np.zeros(n + 1, np.int8)
        steps[starts[1::2] + 1] = 1
        steps[ends[1::2] + 1] = -1
        return ids, np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Messages of N conversations, with leading system messages merged into the user message that follows."""

    first: Ints
    """[N + 1] index of the first message of each, then the total number."""
    roles: Ints
    texts: pa.StringArray

    @classmethod
    def of(cls, turns: Turns) -> _Columns:
        # The stubs do not declare the type of the dictionary.
        encoded = cast("Any", turns.roles.dictionary_encode())  # pyright: ignore[reportUnknownMemberType]
        codes = [ROLES.get(name, OTHER) for name in encoded.dictionary.to_pylist()]
        roles = np.array(codes, np.int64)[encoded.indices.to_numpy()]
        several = turns.first[:-1][np.diff(turns.first) > 1]
        system = several[(roles[several] == SYSTEM) & (roles[several + 1] == USER)]
        if not len(system):
            return cls(turns.first, roles, turns.texts)
        pairs = zip(*(turns.texts.take(at).to_pylist() for at in (system, system + 1)), strict=True)
        joined = pa.array([f"{above}\n\n{below}" for above, below in pairs], pa.string())
        place, stays = np.arange(len(roles)), np.ones(len(roles), np.bool_)
        place[system + 1] = len(roles) + np.arange(len(system))
        stays[system] = False
        texts = pa.concat_arrays([turns.texts, joined]).take(place[stays])
        return cls(edges(stays)[turns.first], roles[stays], texts)

    def irregular(self) -> Flags:
        """[N] whether a conversation is anything other than one or more pairs of a user's message and a reply."""
        counts = np.diff(self.first)
        place = np.arange(len(self.roles)) - np.repeat(self.first[:-1], counts)
        found = (counts == 0) | (counts % 2 == 1)
        wrong = self.roles != np.where(place % 2, ASSISTANT, USER)
        found[np.repeat(np.arange(len(counts)), counts)[wrong]] = True
        return found

    def take(self, wanted: Flags) -> _Columns:
        """Only the conversations that are `wanted` [N]."""
        counts = np.diff(self.first)
        messages = np.flatnonzero(np.repeat(wanted, counts))
        return _Columns(edges(counts[wanted]), self.roles[messages], self.texts.take(messages))


def _interleaved(together: Rendered, single: list[Rendered], is_single: Flags) -> Rendered:
    """The conversations of both in order; `is_single` [N] says which ones are in `single`."""
    ends = edges(np.where(together.fits, together.lengths, 0))
    several, alone = iter(range(len(together.fits))), iter(single)
    parts: list[Rendered] = []
    for one in is_single.tolist():
        if one:
            parts.append(next(alone))
            continue
        i = next(several)
        ids, only = slice(int(ends[i]), int(ends[i + 1])), slice(i, i + 1)
        parts.append(
            Rendered(
                together.ids[ids], together.mask[ids], together.lengths[only], together.fits[only],
                together.trimmed[only],
            )
        )  # fmt: skip
    return Rendered(
        np.concatenate([p.ids for p in parts]),
        np.concatenate([p.mask for p in parts]),
        np.concatenate([p.lengths for p in parts]),
        np.concatenate([p.fits for p in parts]),
        np.concatenate([p.trimmed for p in parts]),
    )
