"""Evaluate one checkpoint: greedy answers to a task's questions, bits per byte where there is text, and the report."""

from __future__ import annotations

from statistics import mean
from typing import Any

from aquarat_core.artifacts.lineage import format_profile
from aquarat_core.config import EvalConfig
from aquarat_core.data.documents import read_documents
from aquarat_core.evaluation import report as reports
from aquarat_core.evaluation.plots import checkpoint_metrics
from aquarat_core.evaluation.protocols import evaluator
from aquarat_core.evaluation.records import write_records
from aquarat_core.evaluation.summary import summarize
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.task_inputs import TaskInput, task_input
from aquarat_core.tasks.task import Example, most_common


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Writes `report.json` and `questions.parquet`, and the pages as records. Rank 0 alone has metrics to return."""
    config: EvalConfig = ctx.config
    checkpoint, text = ctx.input("_checkpoint"), ctx.inputs.get("pretrain_text")
    assert checkpoint is not None, "the stage table gives every eval report a checkpoint"
    found = task_input(ctx, config.task)
    task = found.task
    task.check_ready()
    questions = questions_to_ask(found, config)
    with evaluator(checkpoint.directory(), config) as model:
        records = model.greedy_answers(task, questions, lambda done: ctx.progress(done, len(questions), "questions"))
        ctx.progress(len(questions), len(questions), "questions")
        bpb = model.bits_per_byte(read_documents(text.path("validation.parquet"))) if text else None
    if ctx.rank:
        return {}

    majority = most_common(found.references(majority_split(found)))
    summary = summarize(records, majority, mean(task.chance(e) for e in questions), task.categories)
    data = [found.dataset, *([text] if text else [])]
    report = reports.build(
        ctx.spec.stage,
        checkpoint,
        data,
        config,
        format_profile(ctx.spec.profile, ctx.spec.profile_sha256),
        ctx.spec.code,
        reports.grader_version(task),
        records,
        summary,
        bpb,
    )
    if parent := ctx.input("_eval_report"):
        child = reports.Evaluated(report, records)
        report["comparison"] = reports.compare_with_parent(child, reports.Evaluated.read(parent))
    write_records(ctx.outdir / "questions.parquet", records)
    reports.write(ctx.outdir, ctx.extras_dir, report, records, checkpoint_metrics(checkpoint))
    if summary["too_long"]:
        ctx.log(
            f"{summary['too_long']} of {summary['n']} questions leave no room for eval_report.max_new_tokens "
            f"{config.max_new_tokens} in the model's context, and count as wrong"
        )
    ctx.log(reports.baseline_sentence(checkpoint.asset, summary))
    ctx.log(reports.comparison_sentence(report["comparison"]))
    return metrics(report)


def metrics(report: reports.EvalReport) -> dict[str, Scalar]:
    """The numbers of the artifact's manifest; no accuracy without its interval and its baseline."""
    s, result = report["summary"], report["comparison"]["result"]
    found: dict[str, Scalar] = {
        "n": s["n"],
        "accuracy": s["accuracy"],
        "accuracy_lo": s["accuracy_lo"],
        "accuracy_hi": s["accuracy_hi"],
        "constant_letter": s["constant_letter"]["letter"],
        "constant_letter_accuracy": s["constant_letter"]["accuracy"],
        "parse_rate": s["parse_rate"],
        "too_long": s["too_long"],
    }
    if report["bits_per_byte"] is not None:
        found["bpb"] = report["bits_per_byte"]
    if result:
        found |= {"parent_difference": result["difference"], "mcnemar_p": result["mcnemar_p"]}
    return found


def questions_to_ask(found: TaskInput, config: EvalConfig) -> list[Example[Any]]:
    """The first `config.limit` questions of the split, with choices in the order the model will read."""
    questions = found.examples(config.split)[: config.limit]
    return [found.task.shown(e, config.seed) for e in questions] if config.permute_options else questions


def majority_split(found: TaskInput) -> str:
    """The split whose most common answer is a baseline: that of training, where the task has one."""
    return "train" if found.has("train") else "test"
