"""The text of an answer while its tokens arrive, against the text of all tokens at once."""

from __future__ import annotations

import random

import pytest

from aquarat_core.errors import UsageError
from aquarat_core.text.chat import reading_text
from aquarat_core.text.reading import Call, Reader
from tests.factories import tokenizer

TOK = tokenizer()
MARKS = [TOK.special(f"<|{x}|>") for x in ("python_start", "python_end", "output_start", "output_end")]


def pieces(reader: Reader, tokens: list[int], chosen: random.Random) -> list[str]:
    """What is said when the tokens come in groups of a few."""
    said: list[str] = []
    while tokens:
        n = chosen.randrange(1, 4)
        said.append(reader.push(tokens[:n]))
        tokens = tokens[n:]
    return [*said, reader.finish()]


@pytest.mark.parametrize("special_tokens", [False, True])
def test_the_pieces_are_the_text(special_tokens: bool) -> None:
    special = sorted(TOK.special_ids.values())
    for seed in range(300):
        chosen = random.Random(seed)
        tokens = [
            chosen.choice(special) if chosen.random() < 0.2 else chosen.randrange(special[0])
            for _ in range(chosen.randrange(30))
        ]
        said = pieces(Reader(TOK, special_tokens=special_tokens), tokens, chosen)
        whole = TOK.decode(tokens) if special_tokens else reading_text(TOK, tokens)
        assert "".join(said) == whole


def test_no_piece_has_half_a_character() -> None:
    tokens = TOK.encode("żółć 🦊 ok")
    reader = Reader(TOK)
    said = [reader.push([token]) for token in tokens] + [reader.finish()]
    assert "".join(said) == "żółć 🦊 ok" and not any("\ufffd" in piece for piece in said)


@pytest.mark.parametrize("stops", [("END",), ("ND", "x"), ("EEND", "6 E"), ("\n\n",), ("🦊",)])
def test_nothing_of_a_stop_text_is_said(stops: tuple[str, ...]) -> None:
    texts = ["12 + 6 EEND more", "no stop here E", "EN END", "a\n\nb", "one 🦊 two", "E", ""]
    for text in texts:
        for seed in range(5):
            reader = Reader(TOK, stops)
            said = "".join(pieces(reader, TOK.encode(text), random.Random(seed)))
            places = [text.find(stop) for stop in stops if stop in text]
            assert reader.stopped == bool(places)
            assert said == (text[: min(places)] if places else text)


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        Reader(TOK, ("ok", ""))


def test_calls_are_told_once_their_output_is_complete() -> None:
    start, end, out, done = MARKS
    reader = Reader(TOK)
    tokens = [*TOK.encode("so "), start, *TOK.encode("12*7"), end, out, *TOK.encode("84"), done, *TOK.encode("84.")]
    told: list[tuple[str, int]] = [(reader.push([token]), len(reader.calls)) for token in tokens]
    assert "".join(text for text, _ in told) + reader.finish() == "so 84."
    assert reader.calls == [Call("12*7", "84")]
    first = next(i for i, (_, n) in enumerate(told) if n)
    assert tokens[first] == done


def test_a_call_that_is_not_well_formed_is_none() -> None:
    start, end, out, done = MARKS
    for tokens in ([start, 65, out, 66, done], [end, out, 66, done], [start, 65, end, 66], [out, 66, done]):
        reader = Reader(TOK)
        reader.push(tokens)
        assert reader.calls == []
