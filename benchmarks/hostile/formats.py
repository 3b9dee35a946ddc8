"""The attacked file formats: valid samples of each, the code that reads it, and the errors that it may raise."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.artifacts.manifest import Manifest, canonical
from aquarat_core.artifacts.records import read_commit, read_job_record, read_pin, read_ref
from aquarat_core.config import SPLIT_PATTERN, load_profile
from aquarat_core.settings import REPO_ROOT
from benchmarks.hostile.mutations import mutate_bytes, mutate_json, mutate_lines, mutate_yaml

HASH = "ab" * 32
SHARES = {
    "manifest": 12, "ref": 4, "pin": 3, "launch": 5, "spec": 4, "status": 4, "output": 4, "result": 3, "commit": 4,
    "lease": 3, "ticket": 3, "tokenizer": 8, "tokenizer_hf": 5, "tokenizer_tiktoken": 4,
    "tokenizer_pickled": 5, "parquet": 8, "safetensors": 6, "nanochat": 6, "profile": 8, "hosts": 4, "dotenv": 2,
}  # fmt: skip
"""How many of a hundred inputs, about, each format gets."""


@dataclass
class Format:
    """`read` gives the value of a file's bytes as the product does; `check` raises where that value is wrong."""

    samples: Sequence[bytes]
    read: Callable[[bytes], Any]
    mutations: Sequence[Callable[[random.Random, bytes], bytes]] = ()
    """Beside those that change bytes."""
    errors: tuple[type[BaseException], ...] = (ValueError,)
    check: Callable[[Any, bytes], None] = lambda value, data: None
    own_words: Sequence[str] = field(default=())
    """What a message of ours contains where the error's class is Python's own."""

    def mutate(self, rng: random.Random) -> bytes:
        """A sample, changed as the generator says."""
        sample = rng.choice(self.samples)
        if self.mutations and rng.random() < 0.7:
            return rng.choice(self.mutations)(rng, sample)
        return mutate_bytes(rng, sample, self.samples)

    def names_own(self, text: str) -> bool:
        return any(words in text for words in self.own_words)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _manifest(folder: Path) -> Format:
    folder.mkdir(exist_ok=True)
    (folder / "content").mkdir(exist_ok=True)
    (folder / "content/model").write_bytes(b"weights")
    store = ArtifactStore.open(f"memory://{os.getpid()}")
    parts = {"kind": "checkpoint", "profile": "demo", "code": CodeVersion(version="v", commit="c", dirty=True)}
    made: Any = store.publish(
        asset="sft", directory=folder / "content", config={"a": [1, {"b": None}]}, parents=(), metrics={"m": 0.5},
        seeds={"seed": 1}, run_id="r", **parts,
    )  # fmt: skip
    child = store.publish(
        asset="rl", directory=folder / "content", config={}, parents=(made.as_parent(),), metrics={}, seeds={},
        run_id="r", **parts,
    )  # fmt: skip

    def check(value: Manifest, data: bytes) -> None:
        assert value.sha256 == hashlib.sha256(data).hexdigest(), "it would get another name when it is copied"

    samples = [made.manifest.to_bytes(), child.manifest.to_bytes()]
    return Format(samples, lambda data: Manifest.from_bytes(data, "manifest x"), [mutate_json], check=check)


def _ref(_: Path) -> Format:
    sample = canonical({"manifest_sha256": HASH, "asset": "sft", "data_version": HASH})

    def check(value: Any, _: bytes) -> None:
        assert set(value.manifest_sha256) <= set("0123456789abcdef") and len(value.manifest_sha256) == 64

    return Format([sample], lambda data: read_ref(data, "x"), [mutate_json], check=check)


def _pin(_: Path) -> Format:
    return Format(
        [canonical({"manifest_sha256": HASH, "asset": "sft"})], lambda data: read_pin(data, "x"), [mutate_json]
    )


def _record(name: str, value: Any) -> Callable[[Path], Format]:
    return lambda _: Format([canonical(value)], lambda data: read_job_record(data, "x", name), [mutate_json])


def _commit(_: Path) -> Format:
    sample = {"step": 4, "identity": {"stage": "sft"}, "files": {"rank-0": [1, HASH, "AAAAAA=="]},
              "world": 1, "wandb_id": None, "rng": [1, 2]}  # fmt: skip
    return Format([canonical(sample)], lambda data: read_commit(data, "x"), [mutate_json])


SPEC = {
    "stage": "sft", "store": "file:///s", "profile": "demo", "config": {"steps": 1}, "run_id": "r", "step_key": "sft",
    "inputs": {"a": {"asset": "a", "manifest_sha256": HASH, "data_version": HASH, "run_id": "r"}},
    "code": {"version": "v", "commit": None, "dirty": None}, "attempt": 1,
}  # fmt: skip


def _lease(folder: Path) -> Format:
    from aquarat_core.agent import leases, processes

    root = folder / "host"
    (root / "leases").mkdir(parents=True, exist_ok=True)
    sample = {
        "id": "x", "mark": "no such mark", "job": "file:///s/jobs/r/s/1", "owner": "r", "step": "s", "gpus": [0],
        "unlimited": False, "processes": [], "boot": processes.boot_id(), "expires": leases.now() + 1e6,
    }  # fmt: skip

    def read(data: bytes) -> list[dict[str, Any]]:
        (root / "leases/x.json").write_bytes(data)
        with leases.locked(root):
            return leases.current(root)

    def check(value: list[dict[str, Any]], _: bytes) -> None:
        assert all(isinstance(lease["gpus"], list) for lease in value)

    return Format([_dump(sample)], read, [mutate_json], check=check)


def _ticket(folder: Path) -> Format:
    from aquarat_core.agent import processes
    from aquarat_pipeline.hosts import queueing
    from aquarat_pipeline.hosts.records import Records

    sample = {
        "process": processes.identity(os.getpid()), "run": "r", "step": "s", "since": 1.0, "hosts": [], "asks": True,
        "need": {"distributed": True, "ranks": 1}, "answered": 1,
        "refused": {"a": {"reason": "x", "held": [{"mark": "file:///s/jobs/r/s/1#node0", "gpus": 1}]}},
    }  # fmt: skip

    home = folder / "home"
    queue = queueing.queue(home)
    queue.mkdir(parents=True, exist_ok=True)

    def read(data: bytes) -> list[queueing.Record]:
        """As the allocator does, which removes what is damaged, and as those do who look at the line."""
        (queue / "1-theirs.json").write_bytes(data)
        line = Records(queue, queueing.parse_ticket)
        line.refresh()
        queueing.waiting_steps(home)
        return list(line.items.values())

    def check(value: list[queueing.Record], _: bytes) -> None:
        assert all(isinstance(host, str) for one in value for host in (*one.hosts, *one.avoid, *one.refused))

    return Format([_dump(sample)], read, [mutate_json], check=check)


def _on_disk(path: Path, load: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        path.write_bytes(data)
        return load(path)

    return read


def _trained() -> Any:
    from aquarat_core.config import TokenizerConfig
    from aquarat_core.text.tokenizer import train_tokenizer

    text = "the cat sat on the mat and the other cats that sat there 12 34 1234 " * 20
    return train_tokenizer([text], TokenizerConfig(vocab_size=300))


def _tokenizer(folder: Path) -> Format:
    from aquarat_core.text.tokenizer import Tokenizer

    folder.mkdir(exist_ok=True)
    _trained().save(folder / "sample")

    def check(value: Any, _: bytes) -> None:
        assert value.decode(value.encode("the cat é 12")) == "the cat é 12"

    sample = (folder / "sample").read_bytes()
    # Without the hash that most changes would break.
    plain = {"format": 1} | {k: json.loads(sample)[k] for k in ("pattern", "merges", "special_tokens", "vocab_size")}
    read = _on_disk(folder / "tokenizer.json", Tokenizer.load)
    return Format([sample, _dump(plain)], read, [mutate_json], check=check)


def _tokenizer_hf(folder: Path) -> Format:
    from aquarat_core.text.formats import load_hugging_face, save_hugging_face

    folder.mkdir(exist_ok=True)
    save_hugging_face(_trained(), folder / "sample")
    read = _on_disk(folder / "hf.json", load_hugging_face)
    return Format([(folder / "sample").read_bytes()], read, [mutate_json])


def _tokenizer_tiktoken(folder: Path) -> Format:
    from aquarat_core.text.formats import load_tiktoken, save_tiktoken

    folder.mkdir(exist_ok=True)
    save_tiktoken(_trained(), folder / "sample")
    read = _on_disk(folder / "ranks", lambda path: load_tiktoken(path, SPLIT_PATTERN))
    return Format([(folder / "sample").read_bytes()], read, [mutate_lines])


def _tokenizer_pickled(folder: Path) -> Format:
    import pickle

    import tiktoken

    from aquarat_core.exchange.pickled_tokenizer import load_pickled
    from aquarat_core.text.formats import ordinary_tokens

    folder.mkdir(exist_ok=True)
    made = _trained()
    ranks = {token: rank for rank, token in enumerate(ordinary_tokens(made))}
    encoding = tiktoken.Encoding(
        "rustbpe", pat_str=made.pattern, mergeable_ranks=ranks, special_tokens=made.special_ids
    )
    read = _on_disk(folder / "tokenizer.pkl", load_pickled)

    def with_call(rng: random.Random, sample: bytes) -> bytes:
        at = rng.randrange(len(sample))
        return sample[:at] + b"cos\nsystem\n(S'touch evil'\ntR" + sample[at:]

    def check(value: Any, _: bytes) -> None:
        assert value.decode(value.encode("the cat")) == "the cat" and not Path("evil").exists()

    return Format([pickle.dumps(encoding)], read, [with_call], check=check)


def _parquet(folder: Path) -> Format:
    from aquarat_core.tasks.aqua.files import read_questions, write_questions
    from aquarat_core.tasks.aqua.synthetic import generate_questions

    folder.mkdir(exist_ok=True)
    samples = []
    for n in (1, 40):
        write_questions(folder / "sample", generate_questions(n, seed=n, max_level=2))
        samples.append((folder / "sample").read_bytes())
    return Format(samples, _on_disk(folder / "train.parquet", read_questions))


def _safetensors(folder: Path) -> Format:
    import torch

    from aquarat_core.artifacts.weights import load_sharded, save_sharded

    folder.mkdir(exist_ok=True)
    tensors = {"a": torch.ones(4, 4), "b": torch.zeros(3, dtype=torch.bfloat16)}
    save_sharded(folder, tensors)
    sample = (folder / "model.safetensors").read_bytes()
    return Format(
        [sample], _on_disk(folder / "model.safetensors", lambda path: load_sharded(path.parent)),
        own_words=("model.safetensors",),
    )  # fmt: skip


def _nanochat(folder: Path) -> Format:
    import torch

    from aquarat_core.exchange.nanochat import load_nanochat

    folder.mkdir(exist_ok=True)
    width, vocabulary = 16, 300
    sizes = {f"attn.{name}": (width, width) for name in ("c_q", "c_k", "c_v", "c_proj")}
    sizes |= {"mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
    tables = ("transformer.wte.weight", "lm_head.weight")
    state = {name: torch.zeros(vocabulary, width) for name in tables}
    state |= {f"transformer.h.0.{name}.weight": torch.zeros(size) for name, size in sizes.items()}
    torch.save(state, folder / "model_000001.pt")
    described = {"n_layer": 1, "n_head": 1, "n_kv_head": 1, "n_embd": 16, "sequence_len": 16, "vocab_size": vocabulary}
    (folder / "meta_000001.json").write_text(json.dumps({"model_config": described}))
    read = _on_disk(folder / "model_000001.pt", lambda path: load_nanochat(path.parent, 1))
    words = ("model_000001.pt", "transformer.", "lm_head", "nanochat")
    return Format([(folder / "model_000001.pt").read_bytes()], read, own_words=words)


def _profile(folder: Path) -> Format:
    folder.mkdir(exist_ok=True)
    samples = [(REPO_ROOT / f"aquarat_core/profiles/{name}.yaml").read_bytes() for name in ("demo", "d12")]
    samples.append(b"extends: demo\nname: mine\ndescription: d\nrl_checkpoint: {steps: 3, optim: {lr_scale: 0.1}}\n")

    def check(value: Any, _: bytes) -> None:
        assert json.dumps(value.model_dump(mode="json"), allow_nan=False)

    return Format(
        samples, _on_disk(folder / "p.yaml", lambda path: load_profile(str(path))), [mutate_yaml], check=check
    )


def _hosts(folder: Path) -> Format:
    from aquarat_pipeline.hosts.inventory import read_inventory

    folder.mkdir(exist_ok=True)
    sample = (REPO_ROOT / "dagster_home/hosts.example.yaml").read_bytes()
    read = _on_disk(folder / "hosts.yaml", lambda path: read_inventory(path.parent))
    return Format(
        [sample, b"hosts:\n  - {name: a, address: u@h, gpus: 8}\n  - {name: b, transport: local}\n"],
        read,
        [mutate_yaml],
    )


class _DotenvError(ValueError):
    """What `run` said of a `.env`."""


_DotenvError.__module__ = "aquarat_run"


def _dotenv(folder: Path) -> Format:
    folder.mkdir(exist_ok=True)
    script = (REPO_ROOT / "run").read_text()
    (folder / "run").write_text(script)
    sample = b"# settings\n\nAQUARAT_PROFILE=tiny # a name\nHF_TOKEN=\"hf_x\"\nX='a b'\nAQUARAT_STORE=gs://b/p\n"

    def read(data: bytes) -> str:
        (folder / ".env").write_bytes(data)
        (folder / ".env").chmod(0o600)
        command = ["bash", "-c", f"source '{folder}/run'; load_dotenv; env -0 | sort -z | head -c 100000"]
        out = subprocess.run(command, capture_output=True, cwd=folder, env={"PATH": os.environ["PATH"]})
        if out.returncode == 1 and out.stderr.startswith(b"run: .env line"):
            raise _DotenvError(out.stderr.decode(errors="replace"))
        assert out.returncode == 0, f"exit code {out.returncode}: {out.stderr[-300:]!r}"
        return out.stdout.decode(errors="replace")

    def check(value: str, _: bytes) -> None:
        assert not (folder / "evil").exists() and "uid=" not in value, "a value was executed"

    return Format([sample], read, [mutate_lines], check=check)


FORMATS: dict[str, Callable[[Path], Format]] = {
    "manifest": _manifest,
    "ref": _ref,
    "pin": _pin,
    "launch": _record("launch.json", {"spec": SPEC, "retry": 0, "events": {"a": 1}}),
    "spec": _record("spec.json", SPEC),
    "status": _record("status/node0.json", {"state": "ended", "sequence": 3, "chunks": 2, "code": 0, "signal": None,
                                            "reason": None, "tail": ["a"], "node": 0, "host": "h"}),
    "output": _record("output/node0/000001.json", {"lines": ["a"], "messages": [{"method": "log", "params": {}}]}),
    "result": _record("result.json", {"ok": True, "manifest_sha256": HASH, "data_version": HASH, "uri": "file:///s",
                                      "metrics": {"a": 1.0}, "seconds": 1.0}),
    "commit": _commit,
    "lease": _lease,
    "ticket": _ticket,
    "tokenizer": _tokenizer,
    "tokenizer_hf": _tokenizer_hf,
    "tokenizer_tiktoken": _tokenizer_tiktoken,
    "tokenizer_pickled": _tokenizer_pickled,
    "parquet": _parquet,
    "safetensors": _safetensors,
    "nanochat": _nanochat,
    "profile": _profile,
    "hosts": _hosts,
    "dotenv": _dotenv,
}  # fmt: skip
assert SHARES.keys() == FORMATS.keys()
