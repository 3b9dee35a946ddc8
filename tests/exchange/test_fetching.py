"""From the Hub comes one checkpoint: its description first, its weights only if they can be read, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.exchange.model_hub import READER, ModelHub, Repo, client_environment

pytestmark = pytest.mark.slow
NAME = "someone/model"
OURS = json.dumps({"model": {}, "vocab_size": 300}).encode()
META = json.dumps({"model_config": {"n_layer": 2}}).encode()
WEIGHTS = bytes(range(256)) * 100
DOWNLOAD = """
import shutil, sys
from types import SimpleNamespace
from aquarat_core.data import hub_client
hub_client.WAITS = (0.05, 0.05)
from aquarat_core.errors import UserError
from aquarat_core.exchange.hub import download
uri, step, free = sys.argv[1:]
if free:
    shutil.disk_usage = lambda path: SimpleNamespace(free=int(free))
try:
    print(download(uri, lambda text: print(text, file=sys.stderr), int(step) if step else None))
except UserError as e:
    print(f"{type(e).__name__}: {e}")
    sys.exit(2)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf"


def holding(hub: ModelHub, files: dict[str, bytes], private: bool = False) -> str:
    """The commit of a new repository with these files."""
    repo = hub.repos[NAME] = Repo(private)
    repo.lfs = {name for name, data in files.items() if len(data) > 10_000}
    return repo.commit("main", files)


def fetched(
    hub: ModelHub, revision: str = "", step: str = "", free: str = "", code: int = 0, **environment: str
) -> tuple[str, str]:
    """What the real client answers and logs, in a process of its own, as it reads its settings when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOAD, f"hf://{NAME}{revision}", step, free],
        env=client_environment(hub) | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout.strip(), done.stderr


def sent(hub: ModelHub) -> set[str]:
    """The files whose bytes were asked for."""
    return {
        one.split("/resolve/")[1].partition("/")[2] for one in hub.requests if one.startswith("GET /someone/model/")
    }


def inside(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if not path.is_dir()}


def test_only_the_checkpoint_is_fetched_and_its_size_is_said(hub: ModelHub) -> None:
    wanted = {"config.json": OURS, "tokenizer.json": b"{}", "model.safetensors": WEIGHTS, "README.md": b"# A model\n"}
    others = ("pytorch_model.bin", "onnx/model.safetensors", "checkpoint-5/config.json", "more.safetensors", "run.py")
    commit = holding(hub, wanted | dict.fromkeys(others, WEIGHTS))
    folder, said = fetched(hub)
    assert Path(folder).name == commit and inside(folder) == sent(hub) == set(wanted)
    assert f"{NAME}, commit {commit[:12]}: 1 files of weights, 0.0 MB" in said
    before = len(hub.requests)
    again, said = fetched(hub)
    assert again == folder and "of weights" not in said
    assert not [one for one in hub.requests[before:] if "/resolve/" in one]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config.json": b'{"model_type": "llama"}'}, "the model_type is 'llama'; understood are nanochat"),
        ({"config.json": b"{}"}, "neither a model_type"),
        ({"config.json": b'{"model": {"depth": 999}, "vocab_size": 3}'}, "depth"),
        ({"config.json": b" " * (25 << 20)}, "config.json has 26,214,400 bytes, and at most 25,165,824 are read"),
        ({"config.json": OURS, "model.safetensors.index.json": b"{}"}, "an index of other shards"),
        ({"sub/config.json": OURS}, "There is one in its folder sub"),
        ({"base/d20/model_000001.pt": WEIGHTS, "base/d20/meta_000001.json": META}, "in its folder base/d20"),
        ({"model_000001.pt": WEIGHTS}, "has no meta_000001.json"),
        ({"model_000001.pt": WEIGHTS, "meta_000001.json": b"{}"}, "has no model_config"),
    ],
)
def test_weights_of_what_is_not_read_are_not_fetched(hub: ModelHub, files: dict[str, bytes], reason: str) -> None:
    holding(hub, {"model.safetensors": WEIGHTS} | files)
    assert reason in fetched(hub, code=2)[0]
    assert not {name for name in sent(hub) if name.endswith((".safetensors", ".pt"))}


def test_a_step_that_is_no_choice_is_said(hub: ModelHub) -> None:
    holding(hub, {"config.json": OURS, "model.safetensors": WEIGHTS})
    assert "it cannot be chosen, so leave out --step" in fetched(hub, step="3", code=2)[0]
    holding(hub, {"model_000001.pt": WEIGHTS, "meta_000001.json": META})
    assert "has no checkpoint of step 3, but of 1" in fetched(hub, step="3", code=2)[0]


def test_weights_that_are_not_there_are_named(hub: ModelHub) -> None:
    holding(hub, {"config.json": OURS, "pytorch_model.bin": WEIGHTS})
    assert "has no model.safetensors: only weights in safetensors files are read" in fetched(hub, code=2)[0]


def index(*shards: str) -> bytes:
    return json.dumps({"weight_map": {f"t{n}": shard for n, shard in enumerate(shards)}}).encode()


def test_the_shards_of_the_index_are_fetched(hub: ModelHub) -> None:
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    files: dict[str, bytes] = {"config.json": OURS, "model.safetensors.index.json": index(*shards)}
    files |= dict.fromkeys(shards, WEIGHTS)
    holding(hub, files | {"model-00003-of-00003.safetensors": WEIGHTS})
    assert inside(fetched(hub)[0]) == set(files)


@pytest.mark.parametrize(
    ("shard", "reason"),
    [
        ("../x-00001-of-00001", "is not the name of a shard"),
        ("model-00009-of-00009.safetensors", "has no model-00009-of-00009.safetensors"),
        ("*-00001-of-00001", "has no *-00001-of-00001"),
    ],
)
def test_an_index_that_names_other_files_is_refused(hub: ModelHub, shard: str, reason: str) -> None:
    files = {"config.json": OURS, "model.safetensors.index.json": index(shard), "more.safetensors": WEIGHTS}
    holding(hub, files | {"*-00001-of-00001": b"x"} if "*" in shard else files)
    assert reason in fetched(hub, code=2)[0]
    assert "more.safetensors" not in sent(hub)


@pytest.mark.parametrize(("step", "got"), [("", "000650"), ("20", "000020")])
def test_one_of_nanochats_checkpoints_is_fetched(hub: ModelHub, step: str, got: str) -> None:
    files = {"tokenizer/tokenizer.pkl": b"\x80", "optim_000650.pt": WEIGHTS}
    for one in ("000020", "000650"):
        files |= {f"model_{one}.pt": WEIGHTS, f"meta_{one}.json": META}
    holding(hub, files)
    assert inside(fetched(hub, step=step)[0]) == {f"model_{got}.pt", f"meta_{got}.json", "tokenizer/tokenizer.pkl"}


def test_a_disk_that_is_too_small_is_said_before(hub: ModelHub) -> None:
    holding(hub, {"config.json": OURS, "model.safetensors": WEIGHTS})
    assert "0.0 GB left: free some, or set HF_HOME to" in fetched(hub, free=str(len(WEIGHTS) - 1), code=2)[0]
    assert "model.safetensors" not in sent(hub)
    assert "model.safetensors" in inside(fetched(hub, free=str(len(WEIGHTS)))[0])


def test_a_repository_that_changes_meanwhile_is_not_mixed(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = holding(hub, {"config.json": OURS, "model.safetensors": WEIGHTS})
    listed = hub.RequestHandlerClass._tree

    def pushed(self: Any, *arguments: Any) -> None:
        listed(self, *arguments)
        if hub.repos[NAME].branches["main"] == first:
            hub.repos[NAME].commit("main", {"config.json": OURS, "model.safetensors": WEIGHTS[::-1]})

    monkeypatch.setattr(hub.RequestHandlerClass, "_tree", pushed)
    assert "was changed while it was being read: start again" in fetched(hub, code=2)[0]
    assert "model.safetensors" not in sent(hub)
    assert (Path(fetched(hub)[0]) / "model.safetensors").read_bytes() == WEIGHTS[::-1]


def test_what_was_fetched_is_there_offline(hub: ModelHub) -> None:
    holding(hub, {"config.json": OURS, "model.safetensors": WEIGHTS, "more.safetensors": WEIGHTS})
    assert "not delivered" in fetched(hub, code=2, HF_HUB_OFFLINE="1")[0]
    assert not hub.requests
    folder, _ = fetched(hub)
    before = len(hub.requests)
    assert fetched(hub, HF_HUB_OFFLINE="1")[0] == folder
    assert fetched(hub, revision=f"@{Path(folder).name}", HF_HUB_OFFLINE="1")[0] == folder
    assert len(hub.requests) == before


def test_the_token_that_the_client_keeps_is_not_used(hub: ModelHub, own_cache: Path) -> None:
    holding(hub, {"config.json": OURS, "model.safetensors": WEIGHTS}, private=True)
    own_cache.mkdir()
    (own_cache / "token").write_text(READER)
    assert "it is private and HF_TOKEN is not set" in fetched(hub, code=2)[0]
    assert "model.safetensors" in inside(fetched(hub, HF_TOKEN=READER)[0])
