"""A small store for the tests of pages: two tiny checkpoints, their eval reports, and a server of all pages."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import requests
import uvicorn

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation.examples import examples_section
from aquarat_core.evaluation.records import Record, write_records
from aquarat_core.loading import load
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.serving.app import application
from aquarat_core.serving.site import Served, Site
from aquarat_core.serving.worker import Limits, Worker
from aquarat_core.tasks.aqua.question import prompt, target
from tests.factories import calling_model, questions, random_model, tokenizer
from tests.patience import limit, wait_until

HOSTILE = "<script>alert(1)</script></script><!-- \u202egnp.exe \u2066 & \" ' ` ${x}"
NAME = "aqua/greedy"
N = 60


class WebStore:
    """Artifacts of a short chain: `aqua_dataset`, `sft_checkpoint`, `rl_checkpoint` and a report on each checkpoint.

    SFT answers the questions 0, 3, 6, ... wrongly. RL answers those, but for the multiples of 12, rightly, and 1 and 2
    wrongly, 2 in the wrong form. Its answer to question 5 is hostile.
    """

    def __init__(self, uri: str, scratch: Path) -> None:
        self.uri, self.store, self.scratch = uri, ArtifactStore.open(uri), scratch
        self._n = 0
        self.aqua = self.publish("aqua_dataset", "dataset", {"test.parquet": b"x"}, config={"source": "synthetic"})
        self.sft = self.checkpoint("sft", self.aqua)
        self.rl = self.checkpoint("rl", self.sft, self.aqua)
        self.sft_report = self.report("sft", self.sft, sft_answers())
        self.rl_report = self.report("rl", self.rl, rl_answers(), self.sft_report)

    def publish(
        self,
        asset: str,
        kind: str,
        files: Mapping[str, bytes],
        parents: Sequence[Artifact] = (),
        records: Mapping[str, bytes] | None = None,
        config: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Artifact:
        self._n += 1
        folders = [self.scratch / f"{self._n}-{what}" for what in ("files", "records")]
        for folder, held in zip(folders, (files, records or {}), strict=True):
            folder.mkdir(parents=True)
            for name, content in held.items():
                (folder / name).write_bytes(content)
        return self.store.publish(
            asset=asset, kind=kind, directory=folders[0], records=folders[1], config=config or {}, profile="unit",
            code=CodeVersion(version="c0de" * 16), parents=[p.as_parent() for p in parents], metrics=metrics or {},
            seeds={}, run_id="run-1",
        )  # fmt: skip

    def checkpoint(self, stage: str, *parents: Artifact) -> Artifact:
        folder = self.scratch / f"{stage}-weights"
        (folder / "checkpoint").mkdir(parents=True)
        tokenizer().save(folder / "tokenizer.json")
        model = (
            random_model(tokenizer().vocab_size, seed=len(stage), sequence_len=256)
            if stage == "sft"
            else calling_model()
        )
        save_checkpoint(folder / "checkpoint", model, folder / "tokenizer.json")
        files = {path.name: path.read_bytes() for path in (folder / "checkpoint").iterdir()}
        config = {"tasks": [{"name": "aqua"}], "steps": 3} if stage == "rl" else {"steps": 3}
        return self.publish(
            f"{stage}_checkpoint", "checkpoint", files, parents, {"metrics.jsonl": curve().encode()}, config
        )

    def report(
        self, stage: str, checkpoint: Artifact, records: Sequence[Record], before: Artifact | None = None
    ) -> Artifact:
        folder = self.scratch / f"{stage}-{len(records)}-{self._n}-report"
        folder.mkdir()
        write_records(folder / "questions.parquet", records)
        html = doc.Document(f"{stage} on AQuA", HOSTILE, tuple(examples_section({NAME: list(records)}, 0))).to_html()
        right = sum(r.correct for r in records) / len(records)
        return self.publish(
            f"{stage}_eval_report",
            "report",
            {
                "questions.parquet": (folder / "questions.parquet").read_bytes(),
                "report.json": json.dumps({"format": 1, "evaluations": [{"name": NAME}]}).encode(),
            },
            [self.aqua, checkpoint, *([before] if before else [])],
            {"report.html": html.encode()},
            metrics={"accuracy": right, "accuracy_lo": right - 0.1, "accuracy_hi": right + 0.1, "n": len(records)},
        )


def record(i: int, right: bool, **changed: object) -> Record:
    """An answer to question `i`, right or the next letter."""
    q = questions()[i]
    letter = q.correct if right else "ABCDE"[("ABCDE".index(q.correct) + 1) % 5]
    text = target(q) if right else f"So.\nAnswer: {letter}"
    held = Record(
        f"q{i:02d}", prompt(q), q.correct, text, letter, right, 20, False, "stop", NAME, "aqua",
        prompt_sha256=f"{i:064x}",
    )  # fmt: skip
    return replace(held, **changed)  # pyright: ignore[reportArgumentType]


def sft_answers() -> list[Record]:
    return [record(i, i % 3 != 0) for i in range(N)]


def rl_answers() -> list[Record]:
    made = [record(i, i % 12 != 0 and i not in (1, 2)) for i in range(N)]
    made[2] = replace(made[2], parsed=None, completion="No idea", truncated=True, stop_reason="length")
    made[5] = replace(made[5], completion=f"{HOSTILE}\nAnswer: {made[5].gold}")
    return made


def curve(n: int = 40) -> str:
    """A `metrics.jsonl`."""
    rows = [{"step": i + 1, "train/loss": 3.0 - i / 20, "other": 1.0, "train/lr_factor": 1 - i / n} for i in range(n)]
    return "".join(json.dumps(row) + "\n" for row in rows)


@contextmanager
def serving_pages(web: WebStore) -> Iterator[str]:
    """The address of a real server of the store's `rl_checkpoint`."""
    model = load("rl_checkpoint", store=web.uri)
    worker = Worker({"rl_checkpoint": model}, {"rl_checkpoint": Limits(4, 4, 64)})
    site = Site({"rl_checkpoint": Served("rl_checkpoint", model, worker)}, worker, web.uri)
    with running(application(site)) as url:
        yield url


@contextmanager
def running(
    app: object, prepare: Callable[[socket.socket], None] | None = None, http: type[asyncio.Protocol] | None = None
) -> Iterator[str]:
    """The address of an application that a real server serves, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if prepare:
            prepare(listening)
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", http=http or "auto")  # pyright: ignore[reportArgumentType]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started, 30, "the server starts")
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(limit(30))


def get(url: str, **parameters: object) -> requests.Response:
    return requests.get(url, params=parameters, timeout=limit(60))


def broken_parquet(records: Sequence[Record], folder: Path) -> bytes:
    """A file whose last page was overwritten."""
    write_records(folder / "broken.parquet", records)
    held = bytearray((folder / "broken.parquet").read_bytes())
    assert pq.read_metadata(folder / "broken.parquet").num_rows == len(records)
    held[4:400] = b"\xff" * 396
    return bytes(held)
