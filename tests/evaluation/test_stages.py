"""The two report stages, run as the stage runner runs them, on a real checkpoint that has learned nothing."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dagster_pipes import PipesContext

from aquarat_core.artifacts import Artifact
from aquarat_core.config import CoreConfig, EvalConfig, ModelConfig, TokenizerConfig
from aquarat_core.config.evaluation import ChatCoreConfig, EvalEntry
from aquarat_core.errors import DataError, StageError, UsageError
from aquarat_core.evaluation import suite
from aquarat_core.evaluation.figures import rebuild
from aquarat_core.evaluation.protocols import Evaluator
from aquarat_core.evaluation.records import Record, read_records
from aquarat_core.evaluation.report import Evaluated
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.stages import eval_report, pipeline_report
from aquarat_core.stages.base import StageContext, StageSpec
from aquarat_core.stages.evaluations import questions, questions_to_ask
from aquarat_core.stages.task_inputs import TaskInput
from aquarat_core.tasks.aqua.files import write_questions
from aquarat_core.tasks.aqua.question import prompt
from aquarat_core.tasks.task import most_common
from aquarat_core.text.tokenizer import train_tokenizer
from tests.evaluation.bundles import write_bundle
from tests.factories import AQUA, ONE

pytestmark = pytest.mark.slow

CONFIG = EvalConfig(
    task="aqua",
    limit=12,
    max_new_tokens=8,
    bpb_tokens=512,
    seed=30,
    launch={"nproc": 1, "device": "cpu", "dtype": "float32"},
)


def context(chain, tmp_path, stage: str, config: EvalConfig | None, inputs: dict[str, Artifact]) -> StageContext:
    out, records = tmp_path / f"{stage}-out", tmp_path / f"{stage}-records"
    out.mkdir()
    records.mkdir()
    spec = StageSpec(
        stage=stage, store=chain.store.uri, profile="unit", config=config.model_dump() if config else None,
        inputs={name: a.as_parent() for name, a in inputs.items()}, code=chain.CODE, run_id="run-1", step_key=stage,
    )  # fmt: skip
    return StageContext(spec=spec, config=config, inputs=inputs, outdir=out, extras_dir=records)


def published(chain, ctx: StageContext, metrics: dict) -> Artifact:
    return chain.store.publish(
        asset=ctx.spec.stage, kind="report", directory=ctx.outdir, records=ctx.extras_dir, profile="unit",
        config=ctx.spec.config or {}, code=chain.CODE, parents=tuple(ctx.spec.inputs.values()), metrics=metrics,
        seeds={}, run_id="run-1",
    )  # fmt: skip


@pytest.fixture
def untrained(chain, tmp_path):
    """Base, mid, SFT and RL checkpoints with random weights, and the data that they are asked about."""
    texts = [f"{prompt(q)}\n{q.rationale}" for q in chain.asked[:100]]
    tokenizer = train_tokenizer(iter(texts), TokenizerConfig(vocab_size=320))
    tokenizer.save(tmp_path / "tokenizer.json")
    data = tmp_path / "data"
    data.mkdir()
    asked = [replace(q, id=f"t{i}") for i, q in enumerate(chain.asked)]
    write_questions(data / "test.parquet", asked[:30])
    write_questions(data / "validation.parquet", [])
    write_questions(data / "train.parquet", [replace(q, correct="C" if i < 200 else "B") for i, q in enumerate(asked)])
    pq.write_table(pa.table({"text": texts}), tmp_path / "validation.parquet")
    chain.aqua = chain.publish("aqua_dataset", "dataset", {p.name: p.read_bytes() for p in data.iterdir()})
    chain.text = chain.publish(
        "pretrain_text", "dataset", {"validation.parquet": (tmp_path / "validation.parquet").read_bytes()}
    )
    parents: tuple[Artifact, ...] = ()
    for seed, stage in enumerate(("base", "mid", "sft", "rl")):
        torch.manual_seed(seed)
        model = Transformer(ModelConfig(depth=1, head_size=32, sequence_len=256), tokenizer.vocab_size)
        folder = tmp_path / f"{stage}-checkpoint"
        folder.mkdir()
        save_checkpoint(folder, model, tmp_path / "tokenizer.json")
        files = {p.name: p.read_bytes() for p in folder.iterdir()}
        made = chain.publish(
            f"{stage}_checkpoint", "checkpoint", files, parents, records={"metrics.jsonl": chain.curve(stage)}
        )
        chain.checkpoints[stage], parents = made, (made,)
    return chain


def test_the_stages_report_on_a_chain_that_cannot_answer(untrained, tmp_path) -> None:
    chain, before = untrained, {}
    for stage in ("base", "mid", "sft", "rl"):
        text = {"pretrain_text": chain.text} if stage in ("base", "mid") else {}
        inputs = {f"{stage}_checkpoint": chain.checkpoints[stage], "aqua_dataset": chain.aqua, **text, **before}
        ctx = context(chain, tmp_path, f"{stage}_eval_report", CONFIG, inputs)
        metrics = eval_report.run(ctx)
        assert (metrics["n"], metrics["accuracy"], metrics["parse_rate"]) == (12, 0.0, 0.0)
        assert metrics["accuracy_lo"] == 0.0
        assert metrics["accuracy_hi"] == pytest.approx(3.841459 / (12 + 3.841459), rel=1e-6)
        assert ("bpb" in metrics) == bool(text)
        chain.reports[stage] = published(chain, ctx, metrics)
        before = {f"{stage}_eval_report": chain.reports[stage]}
    assert metrics["mcnemar_p"] == 1.0 and metrics["parent_difference"] == 0.0

    report = json.loads((tmp_path / "rl_eval_report-out" / "report.json").read_text())
    records = read_records(tmp_path / "rl_eval_report-out" / "questions.parquet")
    assert [r.id for r in records] == [f"t{i}" for i in range(12)]
    assert report["summary"]["majority"]["letter"] == "B"  # the training split has as many Cs
    assert report["comparison"]["result"]["verdict"] == "no difference shown"

    inputs = {f"{s}_checkpoint": a for s, a in chain.checkpoints.items()}
    inputs |= {f"{s}_eval_report": a for s, a in chain.reports.items()}
    ctx = context(chain, tmp_path, "pipeline_report", None, inputs)
    metrics = pipeline_report.run(ctx)
    assert (metrics["sft_accuracy"], metrics["rl_accuracy"], metrics["rl_mcnemar_p"]) == (0.0, 0.0, 1.0)
    assert {p.name for p in ctx.extras_dir.iterdir()} == {"report.md", "report.html"}
    content = (ctx.outdir / "report.json").read_text()
    assert len(json.loads(content)["stages"]) == 4

    # What the control host tells of costs is on the page, and not in what decides the data version.
    told = {"costs": [{"asset": "rl_checkpoint", "host": "h1", "hours": 1.5, "gpu_hours": 12.0, "cost_usd": 47.88}]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PipesContext, "is_initialized", lambda: True)
        patch.setattr(PipesContext, "get", lambda: SimpleNamespace(extras=told))
        pipeline_report.run(ctx)
    assert {p.name for p in ctx.extras_dir.iterdir()} == {"report.md", "report.html", "costs.json"}
    assert "| rl_checkpoint | 1.5 h | h1 | 12 | $47.88 | - |" in (ctx.extras_dir / "report.md").read_text()
    assert (ctx.outdir / "report.json").read_text() == content


EVERYTHING = CONFIG.model_copy(
    update={
        "tasks": tuple(
            EvalEntry(task="aqua", split="test", protocol=protocol, limit=4, **fields)
            for protocol, fields in (
                ("sampled", {"samples": 2}), ("letters", {}), ("letters", {"cue": "bare"}), ("continuations", {}),
                ("cued", {"max_new_tokens": 5}), ("rotated", {"of": ("sft",)}), ("greedy", {"of": ("rl",)}),
            )
        ),
        "chat_core": ChatCoreConfig(limit=3, tasks=("aqua",)),
    }
)  # fmt: skip


def test_every_protocol_is_in_the_report_the_records_and_the_metrics(untrained, tmp_path) -> None:
    inputs = {"sft_checkpoint": untrained.checkpoints["sft"], "aqua_dataset": untrained.aqua}
    ctx = context(untrained, tmp_path, "sft_eval_report", EVERYTHING, inputs)
    progress: list[dict[str, Any]] = []
    ctx.send = progress.append
    metrics = eval_report.run(ctx)
    report = json.loads((ctx.outdir / "report.json").read_text())
    names = [f"aqua/{x}" for x in ("greedy", "sampled", "letters", "letters-bare", "continuations", "cued", "rotated")]
    assert [e["name"] for e in report["evaluations"]] == names
    assert [e["answers"] for e in report["evaluations"]] == [12, 8, 4, 4, 4, 4, 20]
    assert json.loads(json.dumps(rebuild(ctx.outdir / "questions.parquet"))) == report["evaluations"]
    main, letters = report["evaluations"][0], report["evaluations"][2]
    assert main["figures"]["accuracy"] == report["summary"]["accuracy"] == metrics["accuracy"]
    assert main["hashes"]["questions_sha256"] == report["evaluation"]["questions_sha256"]
    assert main["hashes"]["data_version"] == untrained.aqua.data_version
    assert main["baselines"]["majority"]["letter"] == "B" and 0 <= main["baselines"]["longest"] <= 1
    assert letters["rates"]["parsed"] == 1.0 and letters["stop_reasons"] == {"scored": 4}
    assert 0 < letters["figures"]["letter_mass"] < 1
    assert metrics["aqua/letters/accuracy"] == letters["figures"]["accuracy"]
    assert metrics["aqua/letters/lo"] <= metrics["aqua/letters/accuracy"] <= metrics["aqua/letters/hi"]
    # ChatCORE's AQuA is the main evaluation, the only one of its tasks here.
    assert report["chat_core"]["name"] == "ChatCORE-1" and report["chat_core"]["tasks"][0]["n"] == 12
    assert metrics["chatcore-1"] == pytest.approx(-0.25)
    assert progress[-1]["done"] == progress[-1]["total"] == 12 + 6 * 4
    assert Evaluated.read(published(untrained, ctx, metrics)).records == [
        r for r in read_records(ctx.outdir / "questions.parquet") if r.evaluation == "aqua/greedy"
    ]


def test_core_is_in_the_report_the_records_and_the_metrics(untrained, tmp_path) -> None:
    write_bundle(untrained.folders("eval_bundle")[0])
    bundle = untrained.publish("eval_bundle", "dataset", {})
    inputs = {
        "base_checkpoint": untrained.checkpoints["base"], "aqua_dataset": untrained.aqua, "eval_bundle": bundle,
        "pretrain_text": untrained.text,
    }  # fmt: skip
    config = CONFIG.model_copy(update={"core": CoreConfig(limit=12)})
    ctx = context(untrained, tmp_path, "base_eval_report", config, inputs)
    metrics = eval_report.run(ctx)
    report = json.loads((ctx.outdir / "report.json").read_text())
    core, evaluations = report["core"], {e["name"]: e for e in report["evaluations"]}
    assert core["name"] == "CORE-8@12" and metrics["core-8@12"] == core["core"]
    assert metrics["core-8@12_lo"] == core["lo"] < core["core"] < core["hi"] == metrics["core-8@12_hi"]
    assert next(iter(evaluations)) == "aqua/greedy" and len(evaluations) == 9
    for task in core["tasks"]:
        found = evaluations[f"core/{task['label']}@12"]
        assert (found["n"], found["figures"]["accuracy"]) == (12, task["accuracy"])
        assert found["settings"]["baseline"] == task["baseline"]
        assert (found["baselines"]["chance"] == 0) == (task["type"] == "language_modeling")
        assert found["rates"]["parsed"] == pytest.approx(1 - task["unscorable"] / 12)
        assert found["hashes"]["data_version"] == bundle.data_version
        assert ("calibration" in found["figures"]) == (task["type"] != "language_modeling")
    assert not any(name.startswith("core/") for name in metrics)
    assert json.loads(json.dumps(rebuild(ctx.outdir / "questions.parquet"))) == report["evaluations"]
    row = next(r for r in read_records(ctx.outdir / "questions.parquet") if r.task == "copa")
    assert "A. " in row.question and row.gold in "ABCDEF" and row.parsed in "ABCDEF"
    assert bundle.sha256 in [d["manifest_sha256"] for d in report["data"]]
    page = (ctx.extras_dir / "report.md").read_text()
    assert "CORE-8@12 is " in page and "It is not CORE, which has 22 tasks; absent: hellaswag" in page
    made = Evaluated.read(published(untrained, ctx, metrics))
    assert len(made.by_name) == 9 and len(made.records) == 12


def test_core_is_measured_of_the_phases_that_are_named(untrained, tmp_path) -> None:
    inputs = {"sft_checkpoint": untrained.checkpoints["sft"], "aqua_dataset": untrained.aqua}
    config = CONFIG.model_copy(update={"core": CoreConfig(of=("base",))})
    eval_report.run(context(untrained, tmp_path, "sft_eval_report", config, inputs))
    assert json.loads((tmp_path / "sft_eval_report-out" / "report.json").read_text())["core"] is None


def test_two_ranks_find_what_one_finds(untrained, tmp_path) -> None:
    """The shares of two ranks, put together, are the records of one."""
    checkpoint = untrained.checkpoints["sft"].directory()
    task = TaskInput(AQUA, untrained.aqua)
    for asked in EVERYTHING.asked("sft"):
        examples = questions_to_ask(task, replace(asked, limit=4))
        one = Evaluator(checkpoint, EVERYTHING, ONE).ask(asked, AQUA, examples)
        parts = [
            r
            for rank in range(2)
            for r in Evaluator(checkpoint, EVERYTHING, Half(rank, 2, ONE.device, ONE.compute_dtype)).ask(
                asked, AQUA, examples
            )
        ]
        assert len(parts) == len(one) and one
        for theirs, ours in zip(sorted(parts, key=place), sorted(one, key=place), strict=True):
            assert replace(theirs, choice_scores=None) == replace(ours, choice_scores=None)
            # Sums in batches of other sizes are rounded otherwise.
            assert (theirs.choice_scores or ()) == pytest.approx(ours.choice_scores or (), abs=1e-5)


def place(record: Record) -> tuple[str, int]:
    return record.id, record.sample


class Half(World):
    """One of two ranks, whose gathering gives its own part."""

    def gather_to_rank0(self, obj: list[Any]) -> list[Any]:
        return obj


def test_an_answer_that_is_no_choice_names_its_row(untrained) -> None:
    (good, *_) = questions([CONFIG.main], lambda _: TaskInput(AQUA, untrained.aqua), [untrained.aqua])
    assert suite.runnable([good], (), print) == [good]
    bad = replace(good, examples=[good.examples[0], replace(good.examples[1], reference="F")])
    with pytest.raises(DataError, match="aqua_dataset, task aqua, test row t1: the right answer 'F' is none of its 5"):
        suite.runnable([bad], (), print)


def test_what_cannot_be_graded_here_stops_the_stage_or_is_left_out_of_chat_core(untrained, monkeypatch) -> None:
    plan = questions([CONFIG.main], lambda _: TaskInput(AQUA, untrained.aqua), [untrained.aqua])

    def refuse() -> None:
        raise UsageError("no sandbox works here")

    monkeypatch.setattr(AQUA, "check_ready", refuse)
    said: list[str] = []
    with pytest.raises(UsageError, match="no sandbox works here"):
        suite.runnable(plan, {"mmlu/letters"}, said.append)
    assert suite.runnable(plan, {"aqua/greedy"}, said.append) == []
    assert said == ["aqua/greedy is left out: no sandbox works here"]


def test_three_figures_are_in_the_report_the_metrics_and_on_the_page(untrained, tmp_path) -> None:
    inputs = {"sft_checkpoint": untrained.checkpoints["sft"], "aqua_dataset": untrained.aqua}
    plain = context(untrained, tmp_path, "sft_eval_report", CONFIG, inputs)
    before = eval_report.run(plain)
    config = EvalConfig.model_validate({**CONFIG.model_dump(), "forced_letter": True})
    (tmp_path / "forced").mkdir()
    ctx = context(untrained, tmp_path / "forced", "sft_eval_report", config, inputs)
    found = eval_report.run(ctx)
    report = json.loads((ctx.outdir / "report.json").read_text())
    figures = report["three_figures"]
    assert figures["as_generated"]["n"] == figures["forced_letter"]["n"] == 12
    assert figures["among_parsed"] == {"n": 0, "value": None, "lo": None, "hi": None}
    assert found["accuracy_forced_letter"] == found["aqua/cued/accuracy"] == figures["forced_letter"]["value"]
    assert found["right_probability"] == pytest.approx(0.2, abs=0.1), "random weights guess"
    assert found["accuracy_among_parsed"] is None and found["accuracy_among_parsed_n"] == 0
    assert before.items() <= found.items() and report["evaluations"] == rebuild(ctx.outdir / "questions.parquet")
    assert "Three figures" in (ctx.extras_dir / "report.html").read_text()
    old = json.loads((plain.outdir / "report.json").read_text())
    assert "three_figures" not in old and old["evaluations"] == report["evaluations"][:1]


def test_bits_per_byte_of_random_weights_is_about_a_uniform_guess(untrained, tmp_path) -> None:
    inputs = {"base_checkpoint": untrained.checkpoints["base"], "aqua_dataset": untrained.aqua}
    inputs["pretrain_text"] = untrained.text
    ctx = context(untrained, tmp_path, "base_eval_report", CONFIG, inputs)
    bpb = eval_report.run(ctx)["bpb"]
    # log2(320) = 8.3 bits a token; the 55 merges leave between one and a few bytes to a token.
    assert 8.3 / 5 < bpb < 8.3


def test_the_same_inputs_give_the_same_bytes_though_the_page_counts_looks(untrained, tmp_path) -> None:
    inputs = {"sft_checkpoint": untrained.checkpoints["sft"], "aqua_dataset": untrained.aqua}
    versions, pages = [], []
    for attempt in ("one", "two"):
        (tmp_path / attempt).mkdir()
        ctx = context(untrained, tmp_path / attempt, "sft_eval_report", CONFIG, inputs)
        made = published(untrained, ctx, eval_report.run(ctx))
        versions.append(made.data_version)
        pages.append(made.record("report.md").read_text())
    assert versions[0] == versions[1]
    assert "Before this report the store had 0 reports on aqua (test), of 0 checkpoints." in pages[0]
    assert "Before this report the store had 1 report on aqua (test), of 1 checkpoint." in pages[1]


def test_a_look_inside_is_a_file_a_part_of_the_report_and_a_section_of_the_page(untrained, tmp_path) -> None:
    inputs = {"sft_checkpoint": untrained.checkpoints["sft"], "aqua_dataset": untrained.aqua}
    versions, looking = [], {"questions": 4, "maps": 1, "sequences": 2, "of": ["sft"]}
    config = EvalConfig.model_validate({**CONFIG.model_dump(), "interpret": looking})
    for attempt in ("one", "two"):
        (tmp_path / attempt).mkdir()
        ctx = context(untrained, tmp_path / attempt, "sft_eval_report", config, inputs)
        versions.append(published(untrained, ctx, eval_report.run(ctx)).data_version)
    assert versions[0] == versions[1]
    found = json.loads((ctx.outdir / "interpretability.json").read_text())
    report = json.loads((ctx.outdir / "report.json").read_text())
    maps = found.pop("maps")
    assert report["interpretability"] == found and len(found["questions"]) == 4 and len(maps) == 1
    assert set(found["questions"]) <= {f"t{i}" for i in range(12)}  # of those that are asked
    page = (ctx.extras_dir / "report.html").read_text()
    assert page.index("Inside the model") < page.index("What this report is about")
    assert "Inside the model" in (ctx.extras_dir / "report.md").read_text()

    inputs = {"rl_checkpoint": untrained.checkpoints["rl"], "aqua_dataset": untrained.aqua}
    ctx = context(untrained, tmp_path, "rl_eval_report", config, inputs)
    eval_report.run(ctx)
    assert [p.name for p in sorted(ctx.outdir.iterdir())] == ["questions.parquet", "report.json"]
    assert json.loads((ctx.outdir / "report.json").read_text())["interpretability"] is None


def test_majority_letter_is_of_the_training_split_and_the_earlier_on_a_tie(untrained) -> None:
    assert most_common(AQUA.references(untrained.aqua.path, "train")) == "B"
    assert AQUA.references(untrained.aqua.path, "train") == [
        e.reference for e in AQUA.examples(untrained.aqua.path, "train")
    ]


def test_an_empty_split_says_what_to_set(untrained) -> None:
    with pytest.raises(StageError, match=r"no validation questions of aqua: set aqua_dataset\.n_validation above 0"):
        questions_to_ask(TaskInput(AQUA, untrained.aqua), EvalConfig(split="validation").main)


def test_options_are_permuted_by_seed_or_left_alone(untrained) -> None:
    given = questions_to_ask(TaskInput(AQUA, untrained.aqua), EvalConfig(permute_options=False).main)
    first = questions_to_ask(TaskInput(AQUA, untrained.aqua), EvalConfig(seed=1).main)
    assert first == questions_to_ask(TaskInput(AQUA, untrained.aqua), EvalConfig(seed=1).main)
    assert first != questions_to_ask(TaskInput(AQUA, untrained.aqua), EvalConfig(seed=2).main) != given
    assert [sorted(e.choices) for e in first] == [sorted(e.choices) for e in given]
    assert [e.choices[e.answer.gold] for e in first] == [e.choices[e.answer.gold] for e in given]
