"""Names of artifacts: given once, moved on purpose, accepted wherever a hash is and shown beside it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore
from aquarat_core.artifacts.finding import find_artifact
from aquarat_core.artifacts.names import GivenNameError, beside, by_hash, give, is_name, listed, named, take_away
from aquarat_core.cli import main
from aquarat_core.maintenance.collect import DAY, clock, find_garbage
from aquarat_core.maintenance.verify import verify

from .conftest import Publish

Command = Callable[..., str]


@pytest.fixture
def two(uri: str, publish: Publish) -> tuple[Artifact, Artifact]:
    """Two SFT checkpoints; the second is the latest."""
    store = ArtifactStore.open(uri)
    old = publish(store, "sft_checkpoint", {"model.safetensors": b"old"})
    return old, publish(store, "sft_checkpoint", {"model.safetensors": b"new"})


@pytest.fixture
def aquarat(uri: str, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command on the store; its output, or what it complains about if `fails`."""

    def run(*arguments: str, fails: bool = False) -> str:
        assert main([*arguments, "--store", uri]) == (2 if fails else 0)
        out, err = capsys.readouterr()
        return err if fails else out

    return run


@pytest.mark.parametrize("name", ["a", "my-sft-v3", "lr-0.01", "x" * 60, "fade", "v2.b"])
def test_what_is_a_name(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "A", "1st", "a_b", "a/b", "../a", "a--b", "-a", "a-", "a b", "a\n", "x" * 61, "facade", "deadbeef01", "ä",
     "a\u202eb"],
)  # fmt: skip
def test_what_is_no_name(name: str, two: tuple[Artifact, Artifact]) -> None:
    assert not is_name(name)
    with pytest.raises(GivenNameError, match="cannot name an artifact"):
        give(two[0], name)


def test_a_name_stays_until_it_is_moved(two: tuple[Artifact, Artifact]) -> None:
    old, new = two
    store = old.store
    assert give(old, "first") is None and give(old, "first") is None
    with pytest.raises(GivenNameError, match=f"first already names sft_checkpoint {old.sha256[:12]}"):
        give(new, "first")
    assert named(store, "first") == old
    assert give(new, "first", move=True) == old.sha256
    assert named(store, "first") == new and by_hash(store) == {new.sha256: ["first"]}
    assert listed(store) == ["first"]
    take_away(store, "first")
    assert named(store, "first") is None
    with pytest.raises(GivenNameError, match="has no name 'first'"):
        take_away(store, "first")


def test_an_asset_keeps_its_name(two: tuple[Artifact, Artifact], publish: Publish, aquarat: Command) -> None:
    tokenizer = publish(two[0].store, "tokenizer", {"tokenizer.json": b"{}"})
    with pytest.raises(GivenNameError, match="tokenizer is an asset"):
        give(two[0], "tokenizer")
    assert find_artifact("tokenizer", two[0].store.uri).sha256 == tokenizer.sha256


def test_names_are_accepted_and_shown_wherever_hashes_are(two: tuple[Artifact, Artifact], aquarat: Command) -> None:
    old, new = two
    assert "has no names" in aquarat("name")
    assert aquarat("name", old.sha256[:10], "first-try") == f"first-try is sft_checkpoint {old.sha256[:12]}\n"
    aquarat("name", "first-try", "also")
    assert json.loads(aquarat("name", "--json"))["names"] == [
        {"name": name, "asset": "sft_checkpoint", "manifest_sha256": old.sha256} for name in ("also", "first-try")
    ]
    assert find_artifact("first-try", old.store.uri).sha256 == old.sha256
    assert find_artifact("aquarat://first-try", old.store.uri).sha256 == old.sha256
    shown = aquarat("show", "first-try")
    assert "name          also" in shown and "first-try" in shown and old.uri in shown
    assert f"{old.sha256[:8]} (also, first-try)" in aquarat("lineage", "first-try")
    assert f"manifest {old.sha256[:12]} (also, first-try)" in aquarat("lineage", "first-try", "--long")
    assert f"{old.sha256[:8]} (also, first-try)" in aquarat("store", "ls"), "though another one is the latest"
    assert f"sft_checkpoint {old.sha256[:12]} (also, first-try)" in aquarat("store", "diff", "also", new.sha256[:10])
    assert beside(new.sha256, by_hash(old.store)) == new.sha256[:12]
    assert "--move" in aquarat("name", "sft_checkpoint", "also", fails=True)
    assert f"and no longer {old.sha256[:12]}" in aquarat("name", "sft_checkpoint", "also", "--move")
    assert "no longer names anything" in aquarat("name", "--remove", "also")
    assert "which name should" in aquarat("name", "sft_checkpoint", fails=True)
    assert "is an asset" in aquarat("name", "sft_checkpoint", "tokenizer", fails=True)


def test_what_has_a_name_is_kept_and_checked(two: tuple[Artifact, Artifact]) -> None:
    old, new = two
    store = old.store

    def kept() -> bool:
        garbage = find_garbage(store, now=clock(store) + 2 * DAY)
        return f"manifests/{old.sha256}.json" not in {stat.key for stat in garbage.objects}

    assert not kept()
    give(old, "first")
    assert kept() and verify(store).problems == ()
    key = "names/first.json"
    store.backend.write(key, store.backend.read(key).data.replace(old.data_version.encode(), b"0" * 64))
    (problem,) = verify(store).problems
    assert f"give it again with `aquarat name {old.sha256[:12]} first --move`" in problem
    give(old, "first", move=True)
    store.backend.write(key, b"{")
    assert kept(), "what cannot be read may name anything"
    (problem,) = verify(store).problems
    assert key in problem
    with pytest.raises(ArtifactError, match=r"names/first\.json"):
        named(store, "first")
    with pytest.raises(GivenNameError, match="already names a damaged object"):
        give(old, "first")
    give(old, "first", move=True)
    assert named(store, "first") == old and new.store == store
