"""nanochat's tokenizer.pkl is read without running any of it, whatever it contains."""

from __future__ import annotations

import contextlib
import copyreg
import io
import os
import pickle
import pickletools
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from aquarat_core.exchange import pickled_tokenizer
from aquarat_core.exchange.pickled_tokenizer import load_pickled
from aquarat_core.exchange.tokenizer_files import find_tokenizer, read_tokenizer
from aquarat_core.text.formats import ordinary_tokens, save_hugging_face, save_tiktoken
from aquarat_core.text.tokenizer import MAX_FILE_BYTES, Tokenizer, TokenizerError
from tests.factories import tokenizer


def encoding(**changes: Any) -> tiktoken.Encoding:
    """The tests' tokenizer as nanochat makes it."""
    ours = tokenizer()
    ranks = {token: rank for rank, token in enumerate(ordinary_tokens(ours))}
    return tiktoken.Encoding(
        **{"name": "rustbpe", "pat_str": ours.pattern, "mergeable_ranks": ranks, "special_tokens": ours.special_ids}
        | changes
    )


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_what_tiktoken_pickles_is_read(tmp_path: Path, protocol: int) -> None:
    made = encoding()
    read = load_pickled(written(tmp_path, pickle.dumps(made, protocol)))
    assert (read.pattern, read.merges, read.special_ids) == (
        tokenizer().pattern, tokenizer().merges, tokenizer().special_ids,
    )  # fmt: skip
    for text in ("What is 12 + 7?", " Ærø 🙂\n\n naïve", ""):
        assert read.encode(text) == made.encode_ordinary(text)


def test_a_pickle_without_memo_or_with_it_optimized_is_read(tmp_path: Path) -> None:
    read = load_pickled(written(tmp_path, pickletools.optimize(pickle.dumps(encoding()))))
    assert read.special_ids == tokenizer().special_ids


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def global_(module: str, name: str) -> bytes:
    return b"\x80\x04" + b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name)) + b"\x93"


ENCODING = global_("tiktoken.core", "Encoding")
OBJECT = ENCODING + b")\x81"
"""An encoding without a state, on top of the stack."""
HUGE = struct.pack("<Q", 1 << 62)

PROGRAMS = {
    "a call": (pickle.dumps(Calls(os.system, "touch ran")), "it refers to posix.system"),
    "a call, protocol 0": (pickle.dumps(Calls(os.system, "touch ran"), 0), "it refers to posix.system"),
    "a call, protocol 2": (pickle.dumps(Calls(os.system, "touch ran"), 2), "it refers to posix.system"),
    "an attribute": (global_("builtins", "getattr") + b".", "it refers to builtins.getattr"),
    "eval": (pickle.dumps(Calls(eval, "open('ran', 'w')")), "it refers to builtins.eval"),
    "a dotted name": (global_("tiktoken.core", "Encoding.__init__") + b".", "to tiktoken.core.Encoding.__init__"),
    "another module": (global_("tiktoken", "Encoding") + b".", "it refers to tiktoken.Encoding"),
    "a call of the class": (ENCODING + b")R.", "it has the instruction REDUCE"),
    "an old instance": (b"(S'touch ran'\nios\nsystem\n.", "it has the instruction STRING"),
    "an old instance without arguments": (b"(ios\nsystem\n.", "it has the instruction INST"),
    "an old instance from the stack": (b"\x80\x04(" + ENCODING[2:] + b"o.", "it has the instruction OBJ"),
    "arguments of the class": (ENCODING + b"K\x01\x85\x81.", "it has the instruction TUPLE1"),
    "arguments that are no tuple": (ENCODING + b"}\x81.", "it makes an object with arguments"),
    "keyword arguments": (ENCODING + b")}\x92.", "it has the instruction NEWOBJ_EX"),
    "an object of no class": (b"\x80\x04})\x81.", "it makes an object with arguments"),
    "extension 1": (b"\x80\x04\x82\x01.", "it has the instruction EXT1"),
    "extension 2": (b"\x80\x04\x83\x01\x00.", "it has the instruction EXT2"),
    "extension 4": (b"\x80\x04\x84\x01\x00\x00\x00.", "it has the instruction EXT4"),
    "a persistent id": (b"Pid\n.", "it has the instruction PERSID"),
    "a persistent id from the stack": (b"\x80\x04K\x01Q.", "it has the instruction BINPERSID"),
    "a buffer from outside": (b"\x80\x05\x97.", "it has the instruction NEXT_BUFFER"),
    "a name that is a number": (b"\x80\x04K\x01K\x02\x93.", "its instructions do not fit together"),
    "a name that is a deep dict": (b"\x80\x04" + b"}\x8c\x01a" * 5_000 + b"}" + b"s" * 5_000 + b"\x8c\x01x\x93.",
                                   "its instructions do not fit together"),
    "the class alone": (ENCODING + b".", "does not hold an encoding"),
    "no state": (OBJECT + b".", "does not hold an encoding"),
    "a state for the class": (ENCODING + b"}b.", "a state that is not the fields of an encoding"),
    "a state of a registered encoding": (OBJECT + b"\x8c\x04gpt2b.", "a state that is not the fields"),
    "two states": (OBJECT + b"}b}b.", "a state that is not the fields"),
    "a state that is empty": (OBJECT + b"}b.", "its fields are not"),
    "attributes": (OBJECT + b"N}\x86b.", "it has the instruction NONE"),
    "a dict that holds itself": (OBJECT + b"}\x94\x8c\x01xh\x00sb.", "its fields are not"),
    "keys that are numbers": (OBJECT + b"}K\x01K\x02sb.", "a dict whose keys are neither texts nor bytes"),
    "an odd number of items": (OBJECT + b"}(K\x01ub.", "its instructions do not fit together"),
    "items for nothing": (b"\x80\x04(u.", "it is damaged"),
    "items without a beginning": (b"\x80\x04}u.", "its instructions do not fit together"),
    "a memo of nothing": (b"\x80\x04h\x07.", "it is damaged"),
    "a memo at the end of the memory": (OBJECT + b"r\xff\xff\xff\xff.", "does not hold an encoding"),
    "a huge frame": (b"\x80\x04\x95" + HUGE + b".", "does not hold an encoding"),
    "huge bytes": (b"\x80\x04\x8e" + HUGE + b".", "it is damaged"),
    "a huge text": (b"\x80\x04\x8d" + HUGE + b".", "it is damaged"),
    "a huge integer": (b"\x80\x04\x8b" + struct.pack("<i", 1 << 30) + b".", "it is damaged"),
    "an integer of many digits": (b"L" + b"9" * 100_000 + b"L\n.", "it is damaged"),
    "an integer that is negative in size": (b"\x80\x04\x8b" + struct.pack("<i", -1) + b".", "it is damaged"),
    "nothing": (b"", "it is damaged"),
    "no end": (OBJECT, "it is damaged"),
    "another program's text": (b"hello", "it is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_builds_anything_else_is_refused_and_nothing_runs(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program, reason = PROGRAMS[name]
    with pytest.raises(TokenizerError) as caught:
        read_tokenizer(written(tmp_path, program))
    assert reason in str(caught.value) and "Nothing in it was run" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_the_traps_are_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pickle itself would run the first program; otherwise the tests above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(PROGRAMS["a call"][0])
    assert (tmp_path / "ran").exists()


def test_a_registered_extension_is_refused_too(tmp_path: Path) -> None:
    copyreg.add_extension("posix", "system", 0xF0)
    try:
        with pytest.raises(TokenizerError, match="it has the instruction EXT1"):
            load_pickled(written(tmp_path, b"\x80\x04\x82\xf0."))
    finally:
        copyreg.remove_extension("posix", "system", 0xF0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pat_str": 3}, "its pat_str is not a text"),
        ({"mergeable_ranks": ["a"]}, "it has the instruction EMPTY_LIST"),
        ({"mergeable_ranks": "a"}, "its mergeable_ranks is not a dict"),
        ({"mergeable_ranks": {"a": 0}}, "does not give each bytes an integer"),
        ({"mergeable_ranks": {b"a": "0"}}, "does not give each bytes an integer"),
        ({"mergeable_ranks": {b"a": 0, b"b": 0}}, "gives two of them the same integer"),
        ({"mergeable_ranks": {b"a": 1}}, "its ranks are not 0, 1, 2, ... without gaps"),
        ({"mergeable_ranks": {b"a": 0}}, "no tokenizer can have these tokens"),
        ({"special_tokens": {b"<|bos|>": 300}}, "does not give each str an integer"),
        ({"pat_str": "(["}, "no tokenizer can have these tokens"),
        ({"more": 1}, "its fields are not mergeable_ranks, name, pat_str, special_tokens"),
    ],
)
def test_fields_of_another_type_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    buffer = io.BytesIO()
    pickle.Pickler(buffer, 4).dump(encoding().__getstate__() | changes)
    # The state between the object and BUILD, where tiktoken's own pickle has it.
    program = OBJECT + buffer.getvalue()[2:-1] + b"b."
    with pytest.raises(TokenizerError, match=reason.replace("(", r"\(")):
        load_pickled(written(tmp_path, program))


def test_files_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, b"")
    os.truncate(path, MAX_FILE_BYTES + 1)
    with pytest.raises(TokenizerError, match="is longer than 24 MiB"):
        load_pickled(path)
    monkeypatch.setattr(pickled_tokenizer, "MAX_INSTRUCTIONS", 1_000)
    with pytest.raises(TokenizerError, match="it has more than 1,000 instructions"):
        load_pickled(written(tmp_path, b"\x80\x04" + b"}" * 2_000 + b"."))


def test_a_damaged_file_is_a_tokenizer_or_an_error(tmp_path: Path) -> None:
    whole, rng = pickle.dumps(encoding()), random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged) if rng.random() < 0.5 else 200)] = rng.randrange(256)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        with contextlib.suppress(TokenizerError):
            assert isinstance(load_pickled(written(tmp_path, bytes(damaged))), Tokenizer)


# --- the other files ------------------------------------------------------------------------------------------------


def test_every_file_is_recognized_by_its_content(tmp_path: Path) -> None:
    made, files = tokenizer(), [tmp_path / name for name in ("pickled", "ranks", "hugging_face", "ours")]
    files[0].write_bytes(pickle.dumps(encoding()))
    save_tiktoken(made, files[1])
    save_hugging_face(made, files[2])
    made.save(files[3])
    for path in files:
        assert read_tokenizer(path).sha256 == made.sha256, path.name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a tokenizer that can be read"),
        (b"[1, 2]", "is not a tokenizer that can be read"),
        (b'{"vocab": {}}', "is not a tokenizer that can be read"),
        (b'{"model": ', "it is not valid JSON"),
        (b'{"a":' * 100_000, "it is not valid JSON"),
        (b'{"model": {"type": "WordPiece"}}', "its model is WordPiece"),
        (b"YQ== 0\nYg== x\n", "line 2, is not a token in base64"),
        (b"YQ== 0\n", "no tokenizer can have these tokens"),
        (b"\xff\xfe\x00 0\n", "is not a tokenizer that can be read"),
    ],
)
def test_another_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "vocabulary").write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(tmp_path / "vocabulary")


def test_a_vocabulary_without_chat_tokens_is_refused(tmp_path: Path) -> None:
    Tokenizer(tokenizer().pattern, tokenizer().merges, ["<|bos|>"]).save(tmp_path / "t.json")
    with pytest.raises(TokenizerError, match=r"has no <\|user_start\|>, <\|user_end\|>, <\|assistant_start\|>"):
        read_tokenizer(tmp_path / "t.json")
    with pytest.raises(TokenizerError, match="cannot read the tokenizer"):
        read_tokenizer(tmp_path / "absent")


def test_the_nearest_file_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "base" / "base_checkpoints" / "d4"
    folder.mkdir(parents=True)
    assert find_tokenizer(folder) is None
    for place in ("../../tokenizer/tokenizer.pkl", "tokenizer/tokenizer.tiktoken", "tokenizer.json", "tokenizer.pkl"):
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        path.touch()
        assert find_tokenizer(folder) == path
