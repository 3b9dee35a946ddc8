"""The ancestry as a tree and as text."""

from __future__ import annotations

import subprocess
from pathlib import Path

from aquarat_core.artifacts import ArtifactStore, CodeVersion, format_lineage, lineage
from aquarat_core.artifacts.store import rebuild_advice

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


def test_advice_to_paste_runs_nothing_but_its_command(publish: Publish, tmp_path: Path) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    tool = tmp_path / "bin" / "dagster"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nprintf \'%s|\' "$AQUARAT_PROFILE" "$@"\n')
    tool.chmod(0o755)
    evil = publish(store, "aqua_dataset", {"a": b"1"}, profile="demo; touch stolen #")
    child = publish(store, "tokenizer", {"a": b"2"}, profile="$(touch stolen)", parents=[evil])
    for artifact in (evil, child):
        command = rebuild_advice(store, artifact.manifest).split(": ", 1)[1].removeprefix("Run: ")
        command = command[command.index("AQUARAT_PROFILE=") :]
        path = {"PATH": f"{tool.parent}:/usr/bin:/bin"}
        ran = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=path, text=True, capture_output=True)
        assert ran.stdout == f"{artifact.manifest.profile}|asset|materialize|--select|{artifact.asset}|", ran.stderr
    assert not (tmp_path / "stolen").exists()
