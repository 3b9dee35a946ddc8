"""The ancestry as a tree and as text."""

from __future__ import annotations

from pathlib import Path

from aquarat_core.artifacts import ArtifactStore, CodeVersion, format_lineage, lineage

from .conftest import Publish


def test_the_tree_goes_down_to_the_data_sets(publish: Publish, tmp_path: Path) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    aqua = publish(store, "aqua_dataset", {"a": b"1"})
    tokenizer = publish(store, "tokenizer", {"t": b"2"}, parents=[aqua], code=CodeVersion(version="e" * 64))
    dirty = CodeVersion(version="f" * 64, commit="abcdef0123456789" * 2 + "abcdef01", dirty=True)
    sft = publish(store, "sft_checkpoint", {"m": b"3"}, parents=[tokenizer, aqua], code=dirty)
    rl = publish(store, "rl_checkpoint", {"m": b"4"}, parents=[sft, tokenizer])

    tree = lineage(store, rl.sha256)
    assert tree.artifact.sha256 == rl.sha256
    assert [p.asset for p in tree.parents] == ["sft_checkpoint", "tokenizer"]
    assert tree.parents[0].parents[0] is tree.parents[1]

    lines = format_lineage(tree).splitlines()
    assert [line.split("  data ")[0].rstrip() for line in lines] == [
        "rl_checkpoint",
        "├─ sft_checkpoint",
        "│  ├─ tokenizer",
        "│  │  └─ aqua_dataset",
        "│  └─ aqua_dataset",
        "└─ tokenizer",
    ]
    assert lines[1].split("  data ")[1] == (
        f"{sft.data_version[:12]}  manifest {sft.sha256[:12]}  run run-of-sft_checkpoint  "
        f"{sft.manifest.created[:19]}Z  code abcdef012345 (dirty)"
    )
    assert lines[0].endswith("code 0123456789ab")
    assert lines[2].endswith("code eeeeeeeeeeee (no commit)")
    assert lines[5].endswith("(above)")
    assert len({line.index("  data ") for line in lines}) == 1


def test_an_ancestor_that_is_gone_is_named(publish: Publish, tmp_path: Path) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    aqua = publish(store, "aqua_dataset", {"a": b"1"})
    sft = publish(store, "sft_checkpoint", {"m": b"3"}, parents=[aqua])
    (tmp_path / "store" / "manifests" / f"{aqua.sha256}.json").unlink()
    assert format_lineage(lineage(store, sft.sha256)).splitlines()[1] == (
        f"└─ aqua_dataset  manifest {aqua.sha256[:12]}  missing from the store"
    )
