"""Exact import and export of other formats: tiktoken's rank files and Hugging Face's `tokenizer.json`.

A rank file lists tokens with their ids, one per line, without the split pattern and special tokens. A `tokenizer.json`
is accepted only if this tokenizer can reproduce it exactly: byte-level BPE after one split pattern, with merges in the
order of their ids. Anything else is an error: ids that differ only for rare texts would be noticed too late.
"""

from __future__ import annotations

import base64
import binascii
import gc
import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import rustbpe_py

from aquarat_core.text.tokenizer import N_BYTES, Tokenizer, TokenizerError, read_bounded

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The split pattern of `ByteLevel` with `use_regex`."""

_ABSENT = object()
_POSSESSIVE_RANGE = re.compile(r"(\{\d+(?:,\d*)?\})\+")


def from_tokens(
    tokens: Sequence[bytes], pattern: str, special_tokens: Mapping[str, int] | Sequence[str] = ()
) -> Tokenizer:
    """The tokenizer whose token with id i is `tokens[i]`. The first 256 must be the bytes, the others merges of two.

    Raises `TokenizerError` if they are not.
    """
    with _named_errors():
        byte_order, merges = rustbpe_py.merges_of_ranks(list(tokens))
        return Tokenizer(pattern, merges, special_tokens, byte_order)


@contextmanager
def _named_errors() -> Generator[None]:
    """Converts the extension's `ValueError` into a `TokenizerError`."""
    try:
        yield
    except ValueError as e:
        raise TokenizerError(f"no tokenizer can have these tokens: {e}") from None


def ordinary_tokens(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of all ids except special ones."""
    return [tokenizer.token(id_) for id_ in range(N_BYTES + len(tokenizer.merges))]


# --- tiktoken -------------------------------------------------------------------------------------------------------


def save_tiktoken(tokenizer: Tokenizer, path: str | Path) -> None:
    """Writes the ranks in the format of `tiktoken.load.load_tiktoken_bpe`: base64 and rank, one token per line."""
    tokens = ordinary_tokens(tokenizer)
    if len(set(tokens)) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if token in tokens[:i])
        raise TokenizerError(f"a rank file cannot represent this tokenizer: two of its ids stand for {twice!r}")
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    Path(path).write_text("".join(lines), encoding="ascii")


def load_tiktoken(path: str | Path, pattern: str, special_tokens: Mapping[str, int] | Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a rank file with its pattern and special tokens."""
    ranks: dict[int, bytes] = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            known = ranks.setdefault(int(rank), value := base64.b64decode(token, validate=True))
        except (ValueError, binascii.Error):
            raise TokenizerError(f"{path}, line {number}, is not a token in base64 and its rank: {line!r}") from None
        if known is not value:
            raise TokenizerError(f"{path}, line {number}: rank {rank} appears twice")
    missing = next((rank for rank in range(len(ranks)) if rank not in ranks), None)
    if missing is not None:
        raise TokenizerError(f"{path} has {len(ranks)} ranks, but rank {missing} is missing: ranks must be consecutive")
    return from_tokens([ranks[rank] for rank in range(len(ranks))], pattern, special_tokens)


# --- Hugging Face ---------------------------------------------------------------------------------------------------


@contextmanager
def _no_search_for_garbage() -> Generator[None]:
    """Python would look for it among all objects of torch because of our many small ones: that takes longer than they.

    None of ours is garbage.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@_no_search_for_garbage()
def save_hugging_face(tokenizer: Tokenizer, path: str | Path, prepend: str | None = None) -> None:
    r"""Writes a `tokenizer.json` that encodes ordinary text to the same ids, after the special token `prepend` if any.

    Hugging Face also recognizes special tokens in text, which this tokenizer does not by default. Hugging Face's regex
    engine, Oniguruma, reads `\p{N}{1,3}+` as "one or more of" a range. Possessive ranges therefore lose their `+`,
    which does not change what patterns of the GPT-2 family match. Raises `TokenizerError` for a pattern with other
    possessive ranges, whose meaning would change, and for merges that Hugging Face, which merges by pairs, would apply
    differently than this tokenizer, which merges by tokens.
    """
    ordinary = ordinary_tokens(tokenizer)
    with _named_errors():
        _, merges = rustbpe_py.merges_of_ranks(ordinary)
    if tuple(merges) != tokenizer.merges:
        raise TokenizerError(
            "tokenizer.json cannot represent this tokenizer: some tokens result from other merges than those that "
            "define them"
        )
    tokens = [_visible(token) for token in ordinary]
    split = {
        "type": "Split",
        "pattern": {"Regex": _for_oniguruma(tokenizer.pattern)},
        "behavior": "Isolated",
        "invert": False,
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    added = [
        {"id": id_, "content": name, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for name, id_ in sorted(tokenizer.special_ids.items(), key=lambda item: item[1])
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None if prepend is None else _prepending(prepend, tokenizer.special(prepend)),
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: id_ for id_, token in enumerate(tokens)},
            "merges": [[tokens[left], tokens[right]] for left, right in tokenizer.merges],
        },
    }
    # Without indentation, which takes five times as long.
    Path(path).write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def _prepending(name: str, id_: int) -> dict[str, Any]:
    """The post-processor that puts a special token before a text, and before each of a pair."""
    parts = [
        [{"SpecialToken": {"id": name, "type_id": n}}, {"Sequence": {"id": "AB"[n], "type_id": n}}] for n in range(2)
    ]
    return {
        "type": "TemplateProcessing",
        "single": parts[0],
        "pair": parts[0] + parts[1],
        "special_tokens": {name: {"id": name, "ids": [id_], "tokens": [name]}},
    }


def load_hugging_face(path: str | Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`. Raises `TokenizerError` if it cannot be reproduced exactly."""
    try:
        document = json.loads(_read(path))
        _check_types(document, path)
        return _from_hugging_face(document)
    except KeyError as e:
        raise TokenizerError(f"{path} is not a tokenizer.json: it lacks {str(e.args[0])[:40]!r}") from None
    except (TypeError, AttributeError, RecursionError):
        raise TokenizerError(
            f"{path} is not a tokenizer.json: one of its parts has another type than Hugging Face writes"
        ) from None
    except ValueError as e:
        raise TokenizerError(f"{path} cannot be imported exactly: {e}") from None


_OBJECT, _LIST = (dict, "an object"), (list, "a list")
_TYPES = {
    "model": _OBJECT, "model.vocab": _OBJECT, "model.merges": _LIST, "pre_tokenizer": _OBJECT, "added_tokens": _LIST,
}  # fmt: skip


def _check_types(document: object, path: str | Path) -> None:
    """Raises `TokenizerError` for a large part of another type. What is missing is found where it is needed."""
    if not isinstance(document, dict):
        raise TokenizerError(f"{path} is not a tokenizer.json: it is not a JSON object")
    for name, (kind, described) in _TYPES.items():
        part: Any = cast("dict[str, Any]", document)
        for key in name.split("."):
            part = cast("dict[str, Any]", part).get(key, _ABSENT) if isinstance(part, dict) else _ABSENT
        if part is not _ABSENT and not isinstance(part, kind):
            raise TokenizerError(f"{path} is not a tokenizer.json: its {name} is not {described}")


def _from_hugging_face(document: Mapping[str, Any]) -> Tokenizer:
    model = document["model"]
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"its model is {model['type']}, not BPE")
    for field in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(field):
            raise TokenizerError(f"its model has a {field}")
    if document.get("normalizer"):
        raise TokenizerError(f"it normalizes text ({document['normalizer']['type']})")
    pattern = _split_pattern(document["pre_tokenizer"])
    added = {token["content"]: token["id"] for token in document.get("added_tokens", ())}
    ids = {id_: _bytes_of(token) for token, id_ in model["vocab"].items() if token not in added}
    if sorted(ids) != list(range(len(ids))):
        raise TokenizerError("the ids of its ordinary tokens are not 0, 1, 2, ... without gaps")
    tokenizer = from_tokens([ids[i] for i in range(len(ids))], pattern, added)
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    merges = [tuple(_bytes_of(token) for token in pair) for pair in pairs]
    tokens = ordinary_tokens(tokenizer)
    if merges != [(tokens[left], tokens[right]) for left, right in tokenizer.merges]:
        raise TokenizerError("its merges do not produce its tokens in the order of their ids")
    return tokenizer


def _split_pattern(pre_tokenizer: Mapping[str, Any]) -> str:
    parts = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    kinds = [part["type"] for part in parts]
    if any(part.get("add_prefix_space") for part in parts):
        raise TokenizerError("it adds a space before the text")
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return GPT2_PATTERN
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        split = parts[0]
        if split["behavior"] in ("Isolated", "Removed") and split.get("invert") is (split["behavior"] == "Removed"):
            pattern = split["pattern"]["Regex"]
            if _POSSESSIVE_RANGE.search(pattern):
                raise TokenizerError("its split pattern repeats a range ({n,m}+), which other engines read differently")
            return pattern
    raise TokenizerError(f"it splits text by {' and '.join(kinds)}, not by one pattern into bytes")


def _for_oniguruma(pattern: str) -> str:
    family = pattern.replace(r"\p{N}{1,2}+|", r"\p{N}{1,2}|").replace(r"\p{N}{1,3}+|", r"\p{N}{1,3}|")
    if _POSSESSIVE_RANGE.search(family):
        raise TokenizerError("the split pattern has a possessive range ({n,m}+) that tokenizer.json cannot represent")
    # In Oniguruma, `$` is the end of a line and `\z` the end of the text; `\s++$` occurs only in this family.
    return family.replace(r"\s++$|", r"\s++\z|")


def _read(path: str | Path) -> str:
    try:
        return read_bounded(path).decode()
    except OSError as e:
        raise TokenizerError(f"cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise TokenizerError(f"{path} is not text in UTF-8") from None


def _characters() -> dict[int, str]:
    """GPT-2's printable character for each byte: the byte itself if it is visible, otherwise one from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(N_BYTES) if byte not in visible)
    return {byte: chr(byte) for byte in visible} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


_CHARACTER = _characters()
_BYTE = {character: byte for byte, character in _CHARACTER.items()}


def _visible(token: bytes) -> str:
    return token.decode("latin-1").translate(_CHARACTER)


def _bytes_of(token: str) -> bytes:
    try:
        return bytes(_BYTE[character] for character in token)
    except KeyError:
        raise TokenizerError(f"its token {token!r} is not written in GPT-2's characters for bytes") from None
