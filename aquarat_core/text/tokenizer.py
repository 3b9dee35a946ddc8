"""The tokenizer: byte-level BPE with chat tokens that text cannot forge, kept as one JSON file.

Ids are the 256 byte values, the merges in the order they were learned, then the special tokens of `SPECIAL_TOKENS`.
Special tokens enter a sequence by id alone (`special`); their spelling inside a text is text like any other. The work
is done by `rustbpe_py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import rustbpe_py

from aquarat_core.config import TokenizerConfig

FORMAT = 1
TOKENIZER_FILE = "tokenizer.json"
"""Its name in the artifacts that hold one."""
SPECIAL_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
N_BYTES = 256
CHARS_PER_REPORT = 1_000_000

Merges = Sequence[tuple[int, int]]
Progress = Callable[[int, int, str], object]
"""Called with what is done, the most there can be, and the unit: first "characters" read, then "merges" learned."""


class TokenizerError(ValueError):
    """A tokenizer file, a corpus or a token that cannot be used; the message says why."""


class Tokenizer:
    """Text to ids and back. Immutable; may be shared between threads."""

    def __init__(self, pattern: str, merges: Merges, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> None:
        """Raises `ValueError` for a pattern that does not compile or merges that make no vocabulary."""
        self.pattern = pattern
        self.merges = tuple((left, right) for left, right in merges)
        self.special_tokens = tuple(special_tokens)
        self._encoder = rustbpe_py.Encoder(pattern, self.merges, self.special_tokens)
        first = N_BYTES + len(self.merges)
        self._special_ids = {name: first + i for i, name in enumerate(self.special_tokens)}

    @property
    def vocab_size(self) -> int:
        """Ids in all: bytes, merges and special tokens."""
        return self._encoder.vocab_size

    def special(self, name: str) -> int:
        """The id of a special token, such as `<|bos|>`."""
        try:
            return self._special_ids[name]
        except KeyError:
            known = " ".join(self.special_tokens)
            raise TokenizerError(f"{name!r} is no special token of this tokenizer; it has {known}") from None

    def encode(self, text: str) -> list[int]:
        """Ids of the text, never special ones. Raises `ValueError` for text with lone surrogates."""
        return self._encoder.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode` for each text, on all cores."""
        return self._encoder.encode_batch(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens spelled out; bytes that are not UTF-8 become U+FFFD.

        Raises `ValueError` for an id outside the vocabulary.
        """
        return self._encoder.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        """int32[vocab_size]: length in bytes of each token, 0 for special tokens, which stand for no text."""
        n_text = self.vocab_size - len(self.special_tokens)
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        lengths[:n_text] = [len(self._encoder.token_bytes(i)) for i in range(n_text)]
        return lengths

    def save(self, path: str | Path) -> None:
        """Writes the JSON file that `load` reads; equal tokenizers give equal bytes."""
        document = {
            "format": FORMAT,
            "pattern": self.pattern,
            "merges": self.merges,
            "special_tokens": self.special_tokens,
            "vocab_size": self.vocab_size,
        }
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer in the file. Raises `TokenizerError` for one that is broken or newer than this code."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as e:
            raise TokenizerError(f"cannot read the tokenizer {path}: {e.strerror}") from None
        except ValueError as e:
            raise TokenizerError(f"{path} is not a tokenizer: it is not valid JSON ({e})") from None
        try:
            return cls._from_document(document)
        except (ValueError, TypeError, OverflowError) as e:
            raise TokenizerError(f"{path} is not a usable tokenizer: {e}") from None

    @classmethod
    def _from_document(cls, document: object) -> Tokenizer:
        if not isinstance(document, dict) or "format" not in document:
            raise TokenizerError("the JSON is not an object with a format")
        if document["format"] != FORMAT:
            raise TokenizerError(f"it has format {document['format']!r}, this version reads format {FORMAT}")
        fields = {"pattern", "merges", "special_tokens", "vocab_size"}
        if missing := sorted(fields - document.keys()):
            raise TokenizerError(f"it lacks {', '.join(missing)}")
        tokenizer = cls(document["pattern"], document["merges"], document["special_tokens"])
        if tokenizer.vocab_size != document["vocab_size"]:
            has = f"{N_BYTES} bytes, {len(tokenizer.merges)} merges and {len(tokenizer.special_tokens)} special tokens"
            raise TokenizerError(f"it says vocab_size {document['vocab_size']} but holds {has}")
        return tokenizer


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig, progress: Progress | None = None) -> Tokenizer:
    """Learns a tokenizer of `config.vocab_size` ids from the first `config.max_chars` characters of the texts.

    Of one text at most `config.doc_cap` characters count. A corpus with too few distinct pieces gives a smaller
    vocabulary: see `Tokenizer.vocab_size`. The result depends on the multiset of texts read, not on their order.
    Raises `ValueError` when there is no text, or when the vocabulary asked for has no room for bytes and specials.
    """
    n_ordinary = config.vocab_size - len(SPECIAL_TOKENS)
    if n_ordinary < N_BYTES:
        least = N_BYTES + len(SPECIAL_TOKENS)
        raise TokenizerError(f"vocab_size {config.vocab_size} is too small: bytes and special tokens alone are {least}")
    report = None if progress is None else (lambda done, total: progress(done, total, "merges"))
    merges = rustbpe_py.train(_within_budget(texts, config, progress), n_ordinary, config.pattern, report)
    return Tokenizer(config.pattern, merges)


def _within_budget(texts: Iterable[str], config: TokenizerConfig, progress: Progress | None) -> Iterator[str]:
    done = reported = 0
    for text in texts:
        counted = text[: min(config.doc_cap, config.max_chars - done)]
        done += len(counted)
        yield counted
        if progress is not None and done - reported >= CHARS_PER_REPORT:
            progress(done, config.max_chars, "characters")
            reported = done
        if done >= config.max_chars:
            return
