"""The command as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.cli import main
from aquarat_core.config import load_profile, profile_names
from aquarat_core.config.accounting import describe, training_bytes

from .conftest import ROOT, Publish

pytestmark = pytest.mark.slow


def aquarat(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aquarat_core.cli", *arguments]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True)


@pytest.fixture
def chain(publish: Publish, tmp_path: Path) -> tuple[str, Artifact, Artifact]:
    """Store, SFT and RL checkpoint."""
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    sft = publish(store, "sft_checkpoint", {"model.safetensors": b"sft"}, records={"metrics.jsonl": b"{}"})
    return store.uri, sft, publish(store, "rl_checkpoint", {"model.safetensors": b"rl"}, parents=[sft])


def test_lineage_names_the_parent(chain: tuple[str, Artifact, Artifact]) -> None:
    uri, sft, rl = chain
    by_asset = aquarat("lineage", "rl_checkpoint", "--store", uri)
    by_hash = aquarat("lineage", rl.sha256[:10], "--long", AQUARAT_STORE=uri)
    assert (by_asset.returncode, by_asset.stderr) == (0, "")
    head, top, below = by_asset.stdout.splitlines()
    assert head.split() == ["asset", "manifest", "age", "result"]
    assert top.split()[:2] == ["rl_checkpoint", rl.sha256[:8]]
    assert below.split()[:3] == ["└─", "sft_checkpoint", sft.sha256[:8]]
    top, below = by_hash.stdout.splitlines()
    assert top.startswith(f"rl_checkpoint      data {rl.data_version[:12]}  manifest {rl.sha256[:12]}")
    assert below.startswith(f"└─ sft_checkpoint  data {sft.data_version[:12]}  manifest {sft.sha256[:12]}")


def test_text_of_a_manifest_cannot_command_the_terminal(publish: Publish, tmp_path: Path) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    evil = publish(store, "sft_checkpoint", {"f": b""}, run_id="r\x1b[2J\x1b]0;title\x07\nx", profile="p\u202ex\x9b1m")
    for command in (["store", "ls", "--long"], ["show", "sft_checkpoint"], ["lineage", "sft_checkpoint", "--long"]):
        shown = aquarat(*command, "--store", store.uri).stdout
        assert "r\\u001b[2J\\u001b]0;title\\u0007" in shown, command
        assert not set(shown) & set("\x1b\x07\u202e\x9b"), command
    raw = aquarat("show", "sft_checkpoint", "--json", "--store", store.uri).stdout
    assert json.loads(raw) == json.loads(evil.manifest.to_bytes())
    refused = aquarat("show", "no\x1b]0;such\x07", "--store", store.uri)
    assert refused.returncode == 2 and "1b]0;such" in refused.stderr and "\x1b" not in refused.stderr


def test_show_is_for_people_and_for_machines(chain: tuple[str, Artifact, Artifact]) -> None:
    uri, sft, rl = chain
    shown = aquarat("show", "rl_checkpoint", "--store", uri).stdout
    for line in (
        "asset         rl_checkpoint (dataset)",
        f"uri           {rl.uri}",
        f"data version  {rl.data_version}",
        f"parent        sft_checkpoint  manifest {sft.sha256[:12]}  run run-of-sft_checkpoint",
        "metric        loss = 1.5",
        "              nested.seed = 2",
    ):
        assert line in shown.splitlines()
    raw = aquarat("show", "rl_checkpoint", "--json", "--store", uri).stdout.rstrip("\n")
    assert raw.encode() == rl.manifest.to_bytes()
    assert json.loads(raw)["parents"][0]["manifest_sha256"] == sft.sha256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lineage", "nothing"], "has no asset or manifest 'nothing'; it has rl_checkpoint, sft_checkpoint"),
        (["show", "abcdef0123"], "has no asset or manifest 'abcdef0123'"),
        (["lineage", "x", "--store", "ftp://x"], "unknown scheme 'ftp'"),
        (["model", "--profile", "huge"], "unknown profile 'huge'"),
    ],
)
def test_a_mistake_is_one_message(chain: tuple[str, Artifact, Artifact], arguments: list[str], message: str) -> None:
    result = aquarat(*arguments, AQUARAT_STORE=chain[0])
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("aquarat: ") and message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "kept"), [("demo", {"keeps_attention": True}), ("d20", {"keeps_logits": True})]
)  # the one on CPUs, the other compiled on GPUs
def test_model_prints_what_accounting_counts(name: str, kept: dict[str, bool]) -> None:
    result = aquarat("model", "--profile", name)
    assert result.returncode == 0
    cells = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    profile = load_profile(name)
    base, vocab_size = profile.base_checkpoint, profile.tokenizer.vocab_size
    facts = describe(base.model, vocab_size) | {
        "ranks": base.launch.nproc,
        "training_bytes_per_rank": training_bytes(
            base.model, vocab_size, base.micro_batch_rows, ranks=base.launch.nproc, **kept
        ),
    }
    assert cells.pop("profile").strip() == name
    printed = {name: text.strip().replace(",", "") for name, text in cells.items()}
    assert printed == {name: str(value) for name, value in facts.items()}


def test_profiles_lists_them_all() -> None:
    lines = aquarat("profiles").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["demo", "tiny", "d8", "d12", "d16", "d20", "d24", "d26"], "by size"
    assert {line.split()[0] for line in lines} == set(profile_names())
    assert lines[0].split(maxsplit=1)[1] == load_profile("demo").description
    assert list(json.loads(aquarat("profiles", "--json").stdout)) == [line.split()[0] for line in lines]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("ask", "Print a checkpoint's answer to one message."),
        ("store gc", "List what nothing needs anymore; remove it with --delete."),
        ("hosts leases", "Which jobs use which GPUs."),
    ],
)
def test_the_help_of_a_command_says_what_it_does(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert f"\n\n{said}\n\n" in capsys.readouterr().out


def test_ctrl_c_ends_without_a_traceback(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def read(self) -> str:
            raise KeyboardInterrupt

    uri = f"file://{tmp_path}/store"
    publish(ArtifactStore.open(uri), "sft_checkpoint", {"model.safetensors": b"sft"}, kind="checkpoint")
    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert main(["ask", "sft_checkpoint", "-", "--store", uri]) == 130
    assert capsys.readouterr().err == "aquarat: interrupted\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "aquarat_core.cli", "profiles"]
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("command", ["ls", "verify", "gc --without-dagster"])
def test_a_store_folder_that_does_not_exist_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    uri = f"file://{tmp_path}/misspelled"
    assert main(["store", *command.split(), "--store", uri]) == 2
    assert f"{uri}: there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "misspelled").exists()
