"""Evaluate one checkpoint: greedy answers to a task's questions, bits per byte where there is text, and the report."""

from __future__ import annotations

from statistics import mean

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.lineage import format_profile
from aquarat_core.config import EvalConfig
from aquarat_core.data.documents import read_documents
from aquarat_core.errors import StageError
from aquarat_core.evaluation import report as reports
from aquarat_core.evaluation.plots import checkpoint_metrics
from aquarat_core.evaluation.protocols import evaluator
from aquarat_core.evaluation.records import write_records
from aquarat_core.evaluation.summary import summarize
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.tasks.registry import load_task
from aquarat_core.tasks.task import A, Example, Task, most_common


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Writes `report.json` and `questions.parquet`, and the pages as records. Rank 0 alone has metrics to return."""
    config: EvalConfig = ctx.config
    checkpoint, text = ctx.input("_checkpoint"), ctx.inputs.get("pretrain_text")
    assert checkpoint is not None, "the stage table gives every eval report a checkpoint"
    task, dataset = load_task("aqua"), ctx.inputs["aqua_dataset"]
    questions = questions_to_ask(task, dataset, config)
    with evaluator(checkpoint.directory(), config) as model:
        records = model.greedy_answers(task, questions, lambda done: ctx.progress(done, len(questions), "questions"))
        ctx.progress(len(questions), len(questions), "questions")
        bpb = model.bits_per_byte(read_documents(text.path("validation.parquet"))) if text else None
    if ctx.rank:
        return {}

    majority = most_common(task.references(dataset.path, "train"))
    summary = summarize(records, majority, mean(task.chance(e) for e in questions), task.categories)
    data = [dataset, *([text] if text else [])]
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


def questions_to_ask(task: Task[A], dataset: Artifact, config: EvalConfig) -> list[Example[A]]:
    """The first `config.limit` questions of the split, with choices in the order the model will read."""
    questions = task.examples(dataset.path, config.split)[: config.limit]
    if not questions:
        raise StageError(
            f"{dataset.asset} has no {config.split} questions: set {dataset.asset}.n_{config.split} above 0 or "
            "evaluate another split (eval_report.split)"
        )
    return [task.shown(e, config.seed) for e in questions] if config.permute_options else questions
