"""The tokenizer: byte-level BPE with special tokens that text cannot imitate, saved as one JSON file.

Ids are the 256 byte values, the merges in the order they were learned, then the special tokens of `SPECIAL_TOKENS`.
Special tokens enter a sequence by id (`special`); their names in a text are ordinary text unless a call allows them.
`rustbpe_py` does the work; `text/formats.py` reads and writes other programs' formats.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import rustbpe_py

from aquarat_core.artifacts.files import atomic_write
from aquarat_core.config import TokenizerConfig
from aquarat_core.errors import UserError
from aquarat_core.text.counting import Budget, Texts

FORMAT = 2
TOKENIZER_FILE = "tokenizer.json"
"""Name of the tokenizer's file in artifacts."""
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
BYTES_IN_ORDER = bytes(range(N_BYTES))
CHARS_PER_REPORT = 1_000_000
FREQUENT_PER_ID = 2
"""Number of frequent pieces of the training text, besides its tokens, that a tokenizer stores per id."""
FREQUENT_BYTES = range(2, 16)
"""Lengths in bytes of the pieces that it can store."""
TEXT_PER_WRITE = 16_000_000
"""Characters encoded at once by `encode_to_file`."""

MAX_FILE_BYTES = 24 << 20
"""Maximum size of a tokenizer file in any format; 200,000 tokens take half of it."""
MAX_TOKEN_BYTES = 1 << 20
MAX_VOCABULARY_BYTES = 64 << 20
"""Maximum size of one token and of all: each merge can double the longest token, so 30 merges could fill the memory."""

Text = str | bytes
Ids = Iterable[int] | np.ndarray
Allowed = Collection[str] | Literal["all"]
"""The special tokens that are recognized in a text."""
Merges = Sequence[tuple[int, int]]
Progress = Callable[[int, int, str], object]
"""Called with the count so far, its maximum, and the unit: first "characters" read, then "merges" learned."""


class TokenizerError(UserError):
    """A tokenizer file, a corpus or a token that cannot be used, with the reason."""


class Tokenizer:
    """Text to ids and back. Immutable; may be shared between threads, pickled, and used after a fork.

    Bytes that are not UTF-8 are encoded unchanged: only `decode` replaces anything.
    """

    def __init__(
        self,
        pattern: str,
        merges: Merges,
        special_tokens: Sequence[str] | Mapping[str, int] = SPECIAL_TOKENS,
        byte_order: bytes = BYTES_IN_ORDER,
        frequent_pieces: Sequence[str] = (),
    ) -> None:
        """`special_tokens` without ids are numbered after the merges; id i below 256 is the byte `byte_order[i]`.

        `frequent_pieces` only affect the speed. Raises `ValueError` for a pattern that does not compile or for merges
        or special tokens that are not a valid vocabulary.
        """
        self.pattern = pattern
        self.merges = tuple((left, right) for left, right in merges)
        _check_sizes(self.merges)
        self.byte_order = bytes(byte_order)
        self.frequent_pieces = tuple(frequent_pieces)
        if not isinstance(special_tokens, Mapping):
            special_tokens = list(special_tokens)
        self._encoder = rustbpe_py.Encoder(
            pattern,
            self.merges,
            special_tokens,
            byte_order=list(self.byte_order),
            frequent_pieces=[str.encode(piece) for piece in self.frequent_pieces],
        )
        self.special_ids: dict[str, int] = self._encoder.special_tokens
        self.special_tokens = tuple(self.special_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.pattern, self.merges, self.special_ids, self.byte_order, self.frequent_pieces)

    @property
    def vocab_size(self) -> int:
        """Number of ids: bytes, merges and special tokens."""
        return self._encoder.vocab_size

    @property
    def sha256(self) -> str:
        """Hash of everything that determines the ids of a text."""
        return hashlib.sha256(_json(self._identity()).encode()).hexdigest()

    def special(self, name: str) -> int:
        """The id of a special token, such as `<|bos|>`."""
        try:
            return self.special_ids[name]
        except KeyError:
            known = " ".join(self.special_tokens)
            raise TokenizerError(f"{name!r} is not a special token of this tokenizer, which has {known}") from None

    # --- text to ids ------------------------------------------------------------------------------------------------

    def encode(self, text: Text, allowed_special: Allowed = ()) -> list[int]:
        """Ids of the text; special tokens are recognized only if `allowed_special` contains them.

        Raises `ValueError` for text with lone surrogates.
        """
        return self._encoder.encode(text, allowed_special=allowed_special or None)

    def encode_batch(
        self, texts: Iterable[Text], threads: int | None = None, allowed_special: Allowed = ()
    ) -> list[list[int]]:
        """Like `encode` for each text, on all cores."""
        return self._encoder.encode_batch(texts, threads, allowed_special=allowed_special or None)

    def encode_to_numpy(self, text: Text, allowed_special: Allowed = ()) -> np.ndarray:
        """Like `encode`, as uint16[n], or uint32[n] for a vocabulary of more than 65,536 ids."""
        return self._encoder.encode_to_numpy(text, allowed_special=allowed_special or None)

    def encode_into(self, text: Text, out: np.ndarray, allowed_special: Allowed = ()) -> int:
        """Writes the ids to the beginning of `out` (uint16 or uint32); returns how many.

        Raises `ValueError` if they do not fit.
        """
        return self._encoder.encode_into(text, out, allowed_special=allowed_special or None)

    def encode_batch_to_numpy(
        self,
        texts: Iterable[Text | pa.StringArray],
        threads: int | None = None,
        prepend: str | None = None,
        allowed_special: Allowed = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """The fast way to encode many texts: all ids in one array, and the offset of each text.

        `texts` are texts, Arrow arrays of texts, or one such array. Text i has the ids
        `ids[offsets[i] : offsets[i + 1]]`: uint16 (uint32 for more than 65,536 ids) and int64[len(texts) + 1].
        `prepend` names a special token to put before each text.
        """
        first = None if prepend is None else self.special(prepend)
        return self._encoder.encode_batch_to_numpy(
            texts, threads, prepend=first, allowed_special=allowed_special or None
        )

    def encode_to_file(
        self, texts: Iterable[str], path: str | Path, prepend: str | None = None, threads: int | None = None
    ) -> np.ndarray:
        """Writes the ids of all texts to a file that `np.memmap` reads, little-endian, in bounded memory.

        Returns the offsets like `encode_batch_to_numpy`. The file appears when it is complete.
        """
        offsets = [np.zeros(1, dtype=np.int64)]
        with atomic_write(Path(path)) as file:
            for part in _parts(texts):
                ids, starts = self.encode_batch_to_numpy(part, threads, prepend)
                ids.tofile(file)
                offsets.append(starts[1:] + offsets[-1][-1])
        return np.concatenate(offsets)

    def count(self, text: Text, allowed_special: Allowed = ()) -> int:
        """Number of ids of the text."""
        return self._encoder.count(text, allowed_special=allowed_special or None)

    # --- ids to text ------------------------------------------------------------------------------------------------

    def decode(self, ids: Ids) -> str:
        """The text of the ids, with the names of special tokens; bytes that are not UTF-8 become U+FFFD.

        Raises `ValueError` for an id outside the vocabulary.
        """
        return self._encoder.decode(ids)

    def decode_batch(self, batch: Iterable[Ids]) -> list[str]:
        """Like `decode` for each."""
        return self._encoder.decode_batch(batch)

    def decode_bytes(self, ids: Ids) -> bytes:
        """Like `decode`, but returns exactly the bytes that were encoded."""
        return self._encoder.decode_bytes(ids)

    def stream(self) -> rustbpe_py.StreamDecoder:
        """A decoder for ids that arrive one by one: `push(id)` and `finish()` return text, never half a character."""
        return self._encoder.stream()

    def offsets(self, ids: Ids) -> list[int]:
        """The character at which each token starts; for a token that starts inside a character, that character."""
        return self._encoder.offsets(ids)

    def token(self, id: int) -> bytes:
        """The bytes of one token, or the name of a special token."""
        return self._encoder.token_bytes(id)

    def token_id(self, token: bytes) -> int | None:
        """The id of the ordinary token with exactly these bytes."""
        return self._encoder.token_id(token)

    def token_bytes(self) -> np.ndarray:
        """int32[vocab_size]: length in bytes of each token, 0 for special tokens, which represent no text."""
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        n_ordinary = N_BYTES + len(self.merges)
        lengths[:N_BYTES] = 1
        for id_, (left, right) in enumerate(self.merges, start=N_BYTES):
            lengths[id_] = lengths[left] + lengths[right]
        assert not lengths[n_ordinary:].any(), "special tokens come last"
        return lengths

    # --- the file ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the JSON file that `load` reads; equal tokenizers give equal bytes."""
        document = {"format": FORMAT, **self._identity(), "sha256": self.sha256, "vocab_size": self.vocab_size}
        text = _json(document | {"frequent_pieces": self.frequent_pieces})
        Path(path).write_text(text + "\n", encoding="utf-8")

    def _identity(self) -> dict[str, Any]:
        return {
            "pattern": self.pattern,
            "byte_order": self.byte_order.hex(),
            "merges": self.merges,
            "special_tokens": self.special_ids,
        }

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer in the file. Raises `TokenizerError` for one that is broken or newer than this code."""
        try:
            document = json.loads(read_bounded(path).decode())
        except OSError as e:
            raise TokenizerError(f"cannot read the tokenizer {path}: {e.strerror}") from None
        except (ValueError, RecursionError) as e:
            raise TokenizerError(f"{path} is not a tokenizer: it is not valid JSON ({e})") from None
        try:
            return cls._from_document(document)
        except (ValueError, TypeError, OverflowError) as e:
            raise TokenizerError(f"{path} is not a usable tokenizer: {e}") from None

    @classmethod
    def _from_document(cls, content: object) -> Tokenizer:
        if not isinstance(content, dict) or "format" not in content:
            raise TokenizerError("the JSON is not an object with a format")
        # The constructor and the encoder check the fields' types.
        document = cast("dict[str, Any]", content)
        fields = {"pattern", "merges", "special_tokens", "vocab_size"}
        if document["format"] == FORMAT:
            fields |= {"byte_order", "frequent_pieces", "sha256"}
        elif document["format"] != 1:
            raise TokenizerError(f"it has format {document['format']!r}, this version reads formats 1 and {FORMAT}")
        if missing := sorted(fields - document.keys()):
            raise TokenizerError(f"it lacks {', '.join(missing)}")
        tokenizer = cls(
            document["pattern"],
            document["merges"],
            document["special_tokens"],
            bytes.fromhex(document["byte_order"]) if "byte_order" in fields else BYTES_IN_ORDER,
            document.get("frequent_pieces", ()),
        )
        if tokenizer.vocab_size != document["vocab_size"]:
            has = f"{N_BYTES} bytes, {len(tokenizer.merges)} merges and {len(tokenizer.special_tokens)} special tokens"
            raise TokenizerError(f"its vocab_size is {document['vocab_size']}, but it has {has}")
        if "sha256" in fields and tokenizer.sha256 != document["sha256"]:
            raise TokenizerError("its content does not match its sha256: it was changed or damaged")
        return tokenizer


def read_bounded(path: str | Path) -> bytes:
    """The content of a tokenizer file. Raises `TokenizerError` if it is too long, `OSError` if it cannot be read."""
    with Path(path).open("rb") as f:
        data = f.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise TokenizerError(f"{path} is longer than {MAX_FILE_BYTES >> 20} MiB, the maximum for a tokenizer file")
    return data


def _check_sizes(merges: Merges) -> None:
    """Raises `TokenizerError` for merges whose tokens would be unreasonably long."""
    sizes = [1] * N_BYTES
    total = N_BYTES
    for number, (left, right) in enumerate(merges):
        if not (type(left) is type(right) is int and min(left, right) >= 0 and max(left, right) < len(sizes)):
            return  # invalid merges, which the encoder reports
        sizes.append(size := sizes[left] + sizes[right])
        total += size
        if size > MAX_TOKEN_BYTES or total > MAX_VOCABULARY_BYTES:
            raise TokenizerError(
                f"with merge {number} the tokens are longer than {MAX_TOKEN_BYTES:,} bytes each or "
                f"{MAX_VOCABULARY_BYTES:,} together: no text needs such tokens"
            )


def train_tokenizer(texts: Texts, config: TokenizerConfig, progress: Progress | None = None) -> Tokenizer:
    """Trains a tokenizer of `config.vocab_size` ids on the first `config.max_chars` characters of the texts.

    At most `config.max_chars_per_document` characters of a text are used; names of special tokens in it are not
    learned. The result depends on the multiset of texts read, not on their order. Raises as `piece_counter` and
    `learned` do.
    """
    counter = piece_counter(config)
    counter.add(counted_texts(texts, Budget(config.max_chars, config.max_chars_per_document), progress))
    return learned(counter, config, progress)


def piece_counter(config: TokenizerConfig) -> rustbpe_py.PieceCounter:
    """An empty counter of the pieces into which `config.pattern` splits a text.

    Raises `TokenizerError` if the pattern does not compile, or if `config.vocab_size` has no room for bytes and special
    tokens.
    """
    least = N_BYTES + len(SPECIAL_TOKENS)
    if config.vocab_size < least:
        raise TokenizerError(f"vocab_size {config.vocab_size} is too small: bytes and special tokens take {least} ids")
    with _named_errors():
        return rustbpe_py.PieceCounter(config.pattern, list(SPECIAL_TOKENS))


def counted_texts(texts: Texts, budget: Budget, progress: Progress | None = None) -> Texts:
    """The part of the texts that is within the budget, with reports of how many characters were read."""
    total, reported = budget.done + (budget.left or 0), budget.done
    for counted in budget.take(texts):
        yield counted
        if progress is not None and budget.done - reported >= CHARS_PER_REPORT:
            progress(budget.done, total, "characters")
            reported = budget.done


def learned(counter: rustbpe_py.PieceCounter, config: TokenizerConfig, progress: Progress | None = None) -> Tokenizer:
    """The tokenizer of the counted pieces. A corpus with too few distinct pieces results in a smaller vocabulary: see
    `Tokenizer.vocab_size`. Raises `TokenizerError` if nothing was counted."""
    report: Callable[[int, int], object] | None = (
        None if progress is None else lambda done, total: progress(done, total, "merges")
    )
    with _named_errors():
        merges = counter.train(config.vocab_size - len(SPECIAL_TOKENS), report)
    return Tokenizer(config.pattern, merges, frequent_pieces=_frequent_pieces(counter, merges, config.vocab_size))


@contextmanager
def _named_errors() -> Generator[None]:
    """Converts the extension's `ValueError`, for an unusable pattern or corpus, into a `TokenizerError`."""
    try:
        yield
    except ValueError as e:
        raise TokenizerError(f"no tokenizer can be trained: {e}") from None


def _frequent_pieces(counter: rustbpe_py.PieceCounter, merges: Merges, vocab_size: int) -> list[str]:
    """The most frequent pieces that are not tokens and consist of whole characters."""
    tokens = [bytes([byte]) for byte in range(N_BYTES)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    known, wanted = set(tokens), FREQUENT_PER_ID * vocab_size
    top = counter.top(wanted + len(known), FREQUENT_BYTES.start, FREQUENT_BYTES.stop - 1)
    pieces = (piece.decode("utf-8", errors="ignore") for piece, _ in top if piece not in known)
    return [piece for piece in pieces if len(piece.encode()) in FREQUENT_BYTES][:wanted]


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for text in texts:
        part.append(text)
        size += len(text)
        if size >= TEXT_PER_WRITE:
            yield part
            part, size = [], 0
    if part:
        yield part


def _json(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
