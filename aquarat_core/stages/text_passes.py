"""What pretrain_text leaves out if the config asks for it: duplicates, and documents with held-out questions.

Each pass works shard by shard. Signatures and held-out questions are looked for in each shard by itself; signatures
alone then decide which documents repeat an earlier one; and the shards that lose documents are written again. The
validation file is left as it is, so that losses stay comparable, and what it contains is left out of training.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aquarat_core.artifacts import ArtifactStore, FileEntry
from aquarat_core.artifacts.manifest import canonical
from aquarat_core.artifacts.store import blob_key
from aquarat_core.config import PretrainTextConfig
from aquarat_core.config.tasks import CORE
from aquarat_core.errors import DataError
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.sharding.spec import ShardSpec, Stored
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.contamination_shard import FILE as CONTAMINATED
from aquarat_core.stages.decontamination import protected_texts
from aquarat_core.stages.filter_shard import EXCERPTS
from aquarat_core.stages.filter_shard import FILE as KEPT
from aquarat_core.stages.own_text import Shard
from aquarat_core.stages.repeated_text import Repeats, repeats_in
from aquarat_core.stages.sharded import made_shards, shard_spec

LEFT_OUT_FILE = "left_out.json"
SEARCH = "aquarat_core.stages.contamination_shard:search"
KEEP, SHOW = "aquarat_core.stages.filter_shard:keep", "aquarat_core.stages.filter_shard:show"
EXACT, NEAR, CONTAMINATED_DOCUMENT = "exact_duplicates", "near_duplicates", "contaminated"
EXAMPLES, EXAMPLES_OF_A_SHARD = 10, 2
"""Documents that are shown for each reason, of all shards and of one."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Found:
    """The documents of a shard to leave out, by reason: ascending numbers from 0, each under the first that applies."""

    shard: Shard
    by_reason: Mapping[str, Numbers]
    questions: Mapping[int, str]
    """The held-out question that a contaminated document has."""

    @property
    def numbers(self) -> Numbers:
        return np.sort(np.concatenate(list(self.by_reason.values())))


def leave_out(ctx: StageContext, shards: Sequence[Shard]) -> tuple[list[Shard], dict[str, Scalar]]:
    """The shards without what the config leaves out, and metrics; writes `LEFT_OUT_FILE`.

    `shards` are in `ctx`, validation last; before it, the shard of `added_documents`, if the config asks for them,
    whose repetitions are wanted. A training shard that loses everything is not among the result. Raises `DataError` if
    all do.
    """
    with _with_store(ctx) as (inner, store):
        text = {shard.file: _stored(ctx, store, shard.file) for shard in shards}
        train, validation = shards[:-1], shards[-1]
        compared = [validation, *(train[:-1] if ctx.config.added_documents else train)]
        repeats = repeats_in(inner, compared, text) if inner.config.duplicates != "none" else None
        questions = protected_texts(inner) if inner.config.decontaminate else {}
        found = list(_found(inner, train, repeats, _contaminated(inner, train, text, questions)))
        examples = _examples(inner, found, text, repeats, questions)
        kept = [*_kept(inner, found, text), validation]
        inner.stored.append(text[validation.file].entry)
    (ctx.outdir / LEFT_OUT_FILE).write_text(json.dumps(_described(ctx.config, found, examples), indent=2) + "\n")
    if len(kept) == 1:
        raise DataError(
            "no training document is left: every one repeats another or contains a held-out question. Change "
            "pretrain_text.duplicates or decontaminate, or take other text"
        )
    return kept, _metrics(ctx, found)


@contextmanager
def _with_store(ctx: StageContext) -> Generator[tuple[StageContext, ArtifactStore]]:
    """The context with a store for shards, and that store: without one of its own, it has one while the block runs."""
    if ctx.shards is not None:
        yield ctx, ctx.shards
        return
    with scratch_folder("shards") as folder:
        store = ArtifactStore.open(f"file://{folder}")
        inner = replace(ctx, shards=store, stored=[])
        yield inner, store
        for entry in inner.stored:
            Stored(store, entry).fetch(ctx.outdir / entry.path)


def _stored(ctx: StageContext, store: ArtifactStore, file: str) -> Stored:
    """A content file of the stage, taken out of what it publishes and put into the store."""
    for number, entry in enumerate(ctx.stored):
        if entry.path == file:
            del ctx.stored[number]
            return Stored(store, entry)
    stored = _put(store, ctx.outdir / file)
    (ctx.outdir / file).unlink()
    return stored


def _put(store: ArtifactStore, path: Path) -> Stored:
    return Stored(store, FileEntry.of(path.name, store.backend.add_file(path, blob_key)))


def _put_bytes(store: ArtifactStore, data: bytes, name: str) -> Stored:
    with scratch_folder("put") as folder:
        (folder / name).write_bytes(data)
        return _put(store, folder / name)


def _contaminated(
    ctx: StageContext, train: Sequence[Shard], text: Mapping[str, Stored], questions: Mapping[str, str]
) -> Iterator[dict[int, str]]:
    """For each shard, its documents that contain a held-out question, by number in ascending order."""
    if not questions:
        yield from ({} for _ in train)
        return
    assert ctx.shards is not None
    asked = _put_bytes(ctx.shards, canonical(dict(questions)), "questions.json")
    specs = [
        shard_spec(
            f"held-out questions in {shard.file}",
            SEARCH,
            shard.text_bytes,
            inputs={"text": text[shard.file], "questions": asked},
        )
        for shard in train
    ]
    for made in made_shards(ctx, specs):
        yield {number: question for number, question, _ in json.loads(made.read(CONTAMINATED))}


def _found(
    ctx: StageContext, train: Sequence[Shard], repeats: Repeats | None, contaminated: Iterator[dict[int, str]]
) -> Iterator[Found]:
    for shard, questions in zip(train, contaminated, strict=True):
        by_reason: dict[str, Numbers] = {}
        if repeats:
            exact, near = repeats.of(shard.file)
            by_reason = {EXACT: exact} | ({NEAR: near} if ctx.config.duplicates == "near" else {})
        if ctx.config.decontaminate:
            others = [numbers for numbers in by_reason.values() if len(numbers)]
            mine = np.array(list(questions), np.int64)
            by_reason[CONTAMINATED_DOCUMENT] = np.setdiff1d(mine, np.concatenate(others)) if others else mine
        yield Found(shard, by_reason, questions)


def _kept(ctx: StageContext, found: Sequence[Found], text: Mapping[str, Stored]) -> Iterator[Shard]:
    """The training shards with what is left of them; those that lose nothing are published as they are."""
    assert ctx.shards is not None
    specs = dict[str, ShardSpec]()
    for one in found:
        file, numbers = one.shard.file, one.numbers
        if 0 < len(numbers) < one.shard.documents:
            specs[file] = shard_spec(
                f"{file} without {len(numbers)} documents",
                KEEP,
                one.shard.text_bytes,
                # Each version writes Parquet files of its own.
                settings={"pyarrow": version("pyarrow")},
                inputs={
                    "text": text[file],
                    "left_out": _put_bytes(ctx.shards, numbers.astype("<u4").tobytes(), "numbers.bin"),
                },
            )
    made = dict(zip(specs, made_shards(ctx, list(specs.values())), strict=True))
    for shard in (one.shard for one in found if len(one.numbers) < one.shard.documents):
        if shard.file not in made:
            ctx.stored.append(text[shard.file].entry.model_copy(update={"path": shard.file}))
            yield shard
            continue
        rest = made[shard.file]
        rest.publish(KEPT, shard.file)
        yield replace(shard, documents=rest.number("documents"), text_bytes=rest.number("text_bytes"))


def _examples(
    ctx: StageContext,
    found: Sequence[Found],
    text: Mapping[str, Stored],
    repeats: Repeats | None,
    questions: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Some of the documents that are left out, with what they repeat or contain, for people to read."""
    shown, examples = Counter[str](), list[dict[str, Any]]()
    places: dict[str, set[int]] = {}
    for one in found:
        for reason, numbers in one.by_reason.items():
            for number in numbers[: min(EXAMPLES_OF_A_SHARD, EXAMPLES - shown[reason])].tolist():
                shown[reason] += 1
                example = {"reason": reason, "file": one.shard.file, "document": number}
                places.setdefault(one.shard.file, set()).add(number)
                if reason == CONTAMINATED_DOCUMENT:
                    name = one.questions[number]
                    example |= {"question": name, "question_text": questions[name]}
                elif repeats:
                    file, first = repeats.first(one.shard.file, number)
                    places.setdefault(file, set()).add(first)
                    example |= {"first_file": file, "first_document": first}
                examples.append(example)
    texts = _excerpts(ctx, places, text)
    for example in examples:
        example["text"] = texts[example["file"]][example["document"]]
        if "first_file" in example:
            example["first_text"] = texts[example["first_file"]][example["first_document"]]
    return examples


def _excerpts(
    ctx: StageContext, places: Mapping[str, set[int]], text: Mapping[str, Stored]
) -> dict[str, dict[int, str]]:
    """The beginnings of documents, by file and number."""
    specs = [
        shard_spec(
            f"examples of {file}",
            SHOW,
            text[file].entry.size,
            settings={"documents": sorted(numbers)},
            inputs={"text": text[file]},
        )
        for file, numbers in places.items()
    ]
    made = zip(places, made_shards(ctx, specs), strict=True)
    return {file: {int(n): said for n, said in json.loads(one.read(EXCERPTS)).items()} for file, one in made}


def _described(
    config: PretrainTextConfig, found: Sequence[Found], examples: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of `LEFT_OUT_FILE`."""
    of_question = Counter(
        one.questions[number] for one in found for number in one.by_reason.get(CONTAMINATED_DOCUMENT, np.array([], int))
    )
    return {
        "duplicates": config.duplicates,
        "decontaminate": list(config.decontaminate),
        "shards": {
            one.shard.file: {
                "documents": one.shard.documents,
                "kept": one.shard.documents - len(one.numbers),
                **{reason: len(numbers) for reason, numbers in one.by_reason.items()},
            }
            for one in found
        },
        "tasks": _by_task(of_question),
        "questions": dict(sorted(of_question.items())),
        "examples": list(examples),
    }


def _by_task(of_question: Mapping[str, int]) -> dict[str, int]:
    """The documents left out for each task; for CORE, for each of its tasks."""
    found = Counter[str]()
    for name, documents in of_question.items():
        task, part, _ = name.split("/", 2)
        found[f"{task}/{part}" if task == CORE else task] += documents
    return dict(sorted(found.items()))


def _metrics(ctx: StageContext, found: Sequence[Found]) -> dict[str, Scalar]:
    counts = Counter[str]()
    for one in found:
        counts.update({reason: len(numbers) for reason, numbers in one.by_reason.items()})
    total = sum(one.shard.documents for one in found)
    left_out = sum(counts.values())
    said = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in counts.items())
    ctx.log(f"{left_out:,} of {total:,} training documents are left out ({said}); {LEFT_OUT_FILE} shows some")
    gone = [one.shard.file for one in found if len(one.numbers) == one.shard.documents]
    if gone:
        ctx.log(f"nothing is left of {', '.join(gone[:5])}{' and others' if len(gone) > 5 else ''}")
    return {"left_out_documents": left_out, **counts}
