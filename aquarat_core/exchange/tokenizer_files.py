"""Tokenizer files of any program, recognized by their content.

| file | how it is recognized |
| --- | --- |
| nanochat's `tokenizer.pkl` | the first byte of a pickle, or the ending `.pkl` |
| tiktoken's ranks | lines of base64 and a number; pattern and special tokens are nanochat's and ours |
| Hugging Face's `tokenizer.json` | a JSON object with a `model` |
| aquarat's `tokenizer.json` | a JSON object with a `format` |
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

from aquarat_core.config import SPLIT_PATTERN
from aquarat_core.exchange.pickled_tokenizer import load_pickled
from aquarat_core.text.formats import load_hugging_face, load_tiktoken
from aquarat_core.text.tokenizer import SPECIAL_TOKENS, TOKENIZER_FILE, Tokenizer, TokenizerError, read_bounded

RANKS_FILE = "tokenizer.tiktoken"
PICKLED_FILE = "tokenizer.pkl"
FILES = (PICKLED_FILE, TOKENIZER_FILE, RANKS_FILE)
FOLDERS = (".", "tokenizer", "../tokenizer", "../../tokenizer")
"""Where the tokenizer of a checkpoint's folder may be: nanochat has `<base>/tokenizer/` for all the checkpoints in
`<base>/chatsft_checkpoints/d20/` and the like."""
_PICKLE = b"\x80"
_RANK = re.compile(rb"\s*[A-Za-z0-9+/]+=* +\d+\s*$")


def find_tokenizer(folder: Path) -> Path | None:
    """The first tokenizer file in or beside the folder of a checkpoint."""
    places = (folder / place / name for place in FOLDERS for name in FILES)
    return next((path for path in places if path.is_file()), None)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in the file. Raises `TokenizerError` if it is none, or has no tokens for chats."""
    tokenizer = _read(path)
    if missing := [name for name in SPECIAL_TOKENS if name not in tokenizer.special_ids]:
        raise TokenizerError(f"{path} has no {', '.join(missing[:3])}: it is not a tokenizer for conversations")
    return tokenizer


def _read(path: Path) -> Tokenizer:
    try:
        data = read_bounded(path)
    except OSError as e:
        raise TokenizerError(f"cannot read the tokenizer {path}: {e.strerror}") from None
    if data.startswith(_PICKLE) or path.suffix == ".pkl":
        return load_pickled(path)
    if data.lstrip()[:1] == b"{":
        keys = _keys(data, path)
        if "format" in keys:
            return Tokenizer.load(path)
        if "model" in keys:
            return load_hugging_face(path)
    elif _RANK.match(data.lstrip().partition(b"\n")[0]):
        return load_tiktoken(path, SPLIT_PATTERN, SPECIAL_TOKENS)
    raise TokenizerError(
        f"{path} is not a tokenizer that can be read: it must be nanochat's tokenizer.pkl, tiktoken's ranks, or a "
        "tokenizer.json of Hugging Face or aquarat"
    )


def _keys(data: bytes, path: Path) -> set[Any]:
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError) as e:
        raise TokenizerError(f"{path} is not a tokenizer: it is not valid JSON ({e})") from None
    return set(cast("dict[Any, Any]", document))
