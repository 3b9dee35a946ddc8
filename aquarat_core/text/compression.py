"""Compression of a tokenizer in UTF-8 bytes per token by source, compared with known vocabularies if installed."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aquarat_core.text.formats import GPT2_PATTERN, load_tiktoken
from aquarat_core.text.tokenizer import N_BYTES, Tokenizer

CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
RANK_FILES = {"cl100k": ("cl100k_base.tiktoken", CL100K_PATTERN), "gpt2": ("r50k_base.tiktoken", GPT2_PATTERN)}
"""Known vocabularies: the file in tiktoken's plug-in packages, and its split pattern."""


@dataclass(frozen=True, slots=True)
class Compression:
    """Compression of one source by one tokenizer."""

    texts: int
    bytes: int
    """UTF-8 bytes of the texts."""
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens if self.tokens else 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"bytes_per_token": self.bytes_per_token}


def compression(tokenizer: Tokenizer, texts: Sequence[str]) -> Compression:
    """Compression of the texts; no special tokens are counted."""
    ids, offsets = tokenizer.encode_batch_to_numpy(texts)
    return Compression(len(offsets) - 1, sum(len(text.encode()) for text in texts), len(ids))


def known_tokenizers() -> dict[str, Tokenizer]:
    """The known vocabularies whose rank files are in an installed package, by name."""
    found = {name: next(_rank_files(file), None) for name, (file, _) in RANK_FILES.items()}
    return {name: load_tiktoken(path, RANK_FILES[name][1]) for name, path in found.items() if path}


def _rank_files(name: str) -> Iterator[Path]:
    # A namespace package, to which each distribution with tiktoken vocabularies adds a folder.
    spec = importlib.util.find_spec("tiktoken_ext")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from Path(folder).glob(f"data/{name}")


def report(tokenizer: Tokenizer, sources: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Compression of every source by this tokenizer and the known ones, and statistics of token lengths.

    `token_lengths` counts learned tokens by their length in bytes; `longest` are the ten longest, as bytes literals.
    """
    tokenizers = {"own": tokenizer, **known_tokenizers()}
    learned = [tokenizer.token(id_) for id_ in range(N_BYTES, N_BYTES + len(tokenizer.merges))]
    lengths = Counter(map(len, learned))
    return {
        "vocab_size": {name: tok.vocab_size for name, tok in tokenizers.items()},
        "compression": {
            source: {name: compression(tok, texts).to_json() for name, tok in tokenizers.items()}
            for source, texts in sources.items()
        },
        "token_lengths": {length: lengths[length] for length in sorted(lengths)},
        "mean_token_bytes": sum(map(len, learned)) / len(learned) if learned else 1.0,
        "longest": [repr(token)[2:-1] for token in sorted(learned, key=len, reverse=True)[:10]],
    }
