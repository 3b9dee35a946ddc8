"""Evaluate one checkpoint: greedy answers to its task's questions, whatever else the profile asks, bits per byte where
there is text, and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aquarat_core.artifacts import Artifact, ArtifactError
from aquarat_core.artifacts.lineage import format_profile
from aquarat_core.artifacts.survey import readable_artifacts
from aquarat_core.config import EvalConfig
from aquarat_core.config.protocols import CORE
from aquarat_core.data.documents import read_documents
from aquarat_core.errors import DataError
from aquarat_core.evaluation import page, suite, three_figures
from aquarat_core.evaluation import report as reports
from aquarat_core.evaluation.chat_core import chat_core
from aquarat_core.evaluation.core.section import core_sentence
from aquarat_core.evaluation.figure_types import Evaluation
from aquarat_core.evaluation.figures import evaluate, remarks
from aquarat_core.evaluation.looks import (
    is_eval_report,
    looks_at,
    looks_in_training,
    looks_sentence,
    training_sentences,
)
from aquarat_core.evaluation.plots import checkpoint_metrics
from aquarat_core.evaluation.protocols import evaluator
from aquarat_core.evaluation.records import write_records
from aquarat_core.evaluation.wording import baseline_sentence, comparison_sentence
from aquarat_core.stages.base import Scalar, StageContext, StageSpec
from aquarat_core.stages.core import measure_core
from aquarat_core.stages.evaluations import questions, report_of
from aquarat_core.stages.inside import look_inside
from aquarat_core.stages.stage import EVAL_BUNDLE
from aquarat_core.stages.task_inputs import task_input
from aquarat_core.tasks.registry import DATASETS, OTHER_DATASET


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Writes `report.json` and `questions.parquet`, and the pages as records. Rank 0 alone has metrics to return."""
    config: EvalConfig = ctx.config
    checkpoint, text = ctx.input("_checkpoint"), ctx.inputs.get("pretrain_text")
    assert checkpoint is not None, "the stage table gives every eval report a checkpoint"
    phase = ctx.spec.stage.removesuffix("_eval_report")
    data = [ctx.inputs[name] for name in (*DATASETS, OTHER_DATASET) if name in ctx.inputs]
    plan = questions(config.asked(phase), lambda name: task_input(ctx, name), data)
    asked = suite.runnable(plan, config.optional(phase), ctx.log)
    with evaluator(checkpoint.directory(), config) as model:
        answered = suite.run(model, asked, lambda done, total, _: ctx.progress(done, total, "questions"))
        bpb = model.bits_per_byte(read_documents(text.path("validation.parquet"))) if text else None
        core, core_tasks = measure_core(ctx, model)
    if ctx.rank:
        return {}

    evaluations = [evaluate(one.facts, one.records) for one in answered]
    everything = [*answered, *core_tasks]
    bundle = [ctx.inputs[EVAL_BUNDLE]] if core else []
    report = report_of(
        ctx.spec.stage,
        checkpoint,
        [*data, *bundle, *([text] if text else [])],
        config,
        format_profile(ctx.spec.profile, ctx.spec.profile_sha256),
        ctx.spec.code,
        answered,
        [*evaluations, *(evaluate(one.facts, one.records) for one in core_tasks)],
        chat_core(config.of_chat_core(phase), evaluations),
        bpb,
    )
    main = answered[0].records
    if parent := ctx.input("_eval_report"):
        child = reports.Evaluated(report, main)
        report["comparison"] = reports.compare_with_parent(child, reports.Evaluated.read(parent))
    write_records(
        ctx.outdir / "questions.parquet", [r for one in everything for r in one.records], [a.facts for a in everything]
    )
    report["core"] = core
    records = {one.facts["name"]: one.records for one in answered}
    if config.forced_letter and (figures := three_figures.of_evaluation(config.main.name, records)):
        report["three_figures"] = figures
    report["interpretability"], inside = look_inside(ctx, model, asked[0].task, asked[0].examples)
    there = readable_artifacts(checkpoint.store)
    beside = page.Beside(
        records,
        checkpoint_metrics(checkpoint),
        inside,
        [*earlier_looks(there, evaluations), *training_sentences(looks_in_training(checkpoint, there))],
        previous_report(there.values(), ctx.spec),
    )
    page.write(ctx.outdir, ctx.extras_dir, report, beside)
    for line in remarks(evaluations):
        ctx.log(line)
    ctx.log(baseline_sentence(checkpoint.asset, report["summary"]))
    if core:
        ctx.log(core_sentence(core))
    ctx.log(comparison_sentence(report["comparison"]))
    return metrics(report)


def earlier_looks(artifacts: Mapping[str, Artifact], evaluations: Iterable[Evaluation]) -> list[str]:
    """How often a store's reports have looked at the questions of each split so far, in sentences."""
    splits = dict.fromkeys((e["task"], e["split"], e["hashes"]["data_version"]) for e in evaluations)
    return [looks_sentence(looks_at(version, artifacts, task, split), task, split) for task, split, version in splits]


def previous_report(artifacts: Iterable[Artifact], spec: StageSpec) -> reports.Evaluated | None:
    """The newest report of the same asset and profile, if there is one that can be read."""
    found = [
        a for a in artifacts if is_eval_report(a) and (a.asset, a.manifest.profile) == (spec.stage, spec.profile)
    ]  # fmt: skip
    newest = max(found, key=lambda a: a.manifest.created, default=None)
    try:
        return reports.Evaluated.read(newest) if newest else None
    except (DataError, ArtifactError):
        return None  # of an older format, or damaged: this report stands without it


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
    if figures := report.get("three_figures"):
        found |= three_figures.metrics(figures)
    if result:
        found |= {"parent_difference": result["difference"], "mcnemar_p": result["mcnemar_p"]}
    for e in (e for e in report["evaluations"][1:] if e["protocol"] != CORE):
        name, figures = e["name"], e["figures"]
        found |= {
            f"{name}/accuracy": figures["accuracy"],
            f"{name}/lo": figures["lo"],
            f"{name}/hi": figures["hi"],
            f"{name}/parse_rate": e["rates"]["parsed"],
        }
    if chat := report["chat_core"]:
        name = chat["name"].lower()
        found |= {name: chat["value"], f"{name}_lo": chat["lo"], f"{name}_hi": chat["hi"]}
    if core := report.get("core"):
        name = core["name"].lower()
        found[name] = core["core"]
        if "lo" in core and "hi" in core:
            found |= {f"{name}_lo": core["lo"], f"{name}_hi": core["hi"]}
    return found
