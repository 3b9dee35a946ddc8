"""The model card of a release, written from artifacts alone: no number in it that is not in one of them.

Its front matter follows the Hub's form (`model-index`), in which intervals and baselines have no fields of their own;
they are in each metric's `args`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.lineage import format_code, format_profile
from aquarat_core.config import ModelConfig
from aquarat_core.config.accounting import parameters
from aquarat_core.config.protocols import CORE
from aquarat_core.config.release import ReleaseConfig
from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation.chain_report import cost_of, cost_table
from aquarat_core.evaluation.core.section import core_section
from aquarat_core.evaluation.figure_types import Evaluation
from aquarat_core.evaluation.page import origin_band, questions_text
from aquarat_core.evaluation.report import EvalReport
from aquarat_core.evaluation.sections import above_chance, chat_core_section, overview_table
from aquarat_core.evaluation.wording import baseline_sentence, comparison_sentence
from aquarat_core.exchange.provenance import DataSource, Origin, data_sources, origin_of_root, root_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

HERE = "path/to/this/folder"
"""Stands in the examples for a release that has no repository yet."""
QUESTION = "How do you show your answer?"
LIMITS = (
    "This is a small model trained by a research pipeline, mainly on word problems. What it writes can be wrong, "
    "made up or unsuitable, also where it sounds sure. It has had no training for safety.",
    "Results are for the questions, prompts and graders named here. They say little about other tasks, and nothing "
    "about languages that it was not trained on.",
)
UNKNOWN_LIMITS = (
    "The artifacts do not say on what, how and for what use the imported checkpoint was trained: its source has to. "
    "What the model writes can be wrong, made up or unsuitable, also where it sounds sure.",
    LIMITS[1],
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a card describes."""

    checkpoint: Artifact
    chain: Sequence[Artifact]
    """The checkpoint and its ancestors, parents first."""
    model: ModelConfig
    vocab_size: int
    report: EvalReport | None
    """The evaluation; None for a release without one."""
    remote_code: bool
    form: str
    """A sentence: which class opens the release, and why."""
    config: ReleaseConfig

    @property
    def origin(self) -> Origin | None:
        """Where the first checkpoint of the chain was imported from."""
        return origin_of_root(self.chain)

    @property
    def is_imported(self) -> bool:
        """Whether the checkpoint itself was imported, and not trained here."""
        return self.origin is not None and root_of(self.chain).sha256 == self.checkpoint.sha256

    @property
    def license(self) -> str | None:
        """The license of the weights; None if only the source of an imported checkpoint knows it."""
        return self.config.license or (None if self.origin else "mit")


def model_card(subject: Subject) -> str:
    """The text of `README.md`, in Markdown with YAML front matter."""
    return f"---\n{_front_matter(subject)}\n---\n\n{_document(subject).to_markdown()}"


def title(subject: Subject) -> str:
    """The heading of the card."""
    manifest = subject.checkpoint.manifest
    if subject.config.title:
        return subject.config.title
    if subject.is_imported and subject.origin:
        return f"{manifest.asset}, imported from {subject.origin.source}"
    return f"{manifest.asset} of aquarat, profile {manifest.profile}"


def _front_matter(subject: Subject) -> str:
    from huggingface_hub import ModelCardData

    sources = data_sources(subject.chain)
    data = ModelCardData(
        language=list(subject.config.languages or ([] if subject.origin else ["en"])) or None,
        license=subject.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["aquarat", *(["custom_code"] if subject.remote_code else [])],
        datasets=sorted({source.name for source in sources if source.revision}) or None,
        model_name=title(subject),
        eval_results=_results(subject.report) if subject.report else None,
    )
    return str(data.to_yaml())  # pyright: ignore[reportUnknownMemberType]  # no type of its line break


def _results(report: EvalReport) -> list[EvalResult]:
    """One result of the Hub's `model-index` for each evaluation."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=e["task"],
            dataset_name=e["questions"],
            dataset_split=e["split"],
            dataset_revision=e["hashes"]["data_version"],
            metric_type="accuracy",
            metric_name=f"accuracy, {e['name']}",
            metric_value=e["figures"]["accuracy"],
            metric_args={
                "questions": e["n"],
                "interval_95": [round(e["figures"]["lo"], 6), round(e["figures"]["hi"], 6)],
                "guessing": round(e["baselines"]["chance"], 6),
                "best_constant_answer": round(e["baselines"]["constant"]["accuracy"], 6),
                "protocol": e["protocol"],
                "grader": e["hashes"]["grader"],
                "prompts_sha256": e["hashes"]["prompts_sha256"],
            },
        )
        for e in _measured(report)
    ]


def _measured(report: EvalReport) -> list[Evaluation]:
    """All evaluations but those of CORE's tasks, which have a figure of their own."""
    return [e for e in report["evaluations"] if e["protocol"] != CORE]


def _document(subject: Subject) -> doc.Document:
    blocks: tuple[Iterable[doc.Block], ...] = (
        _warnings(subject),
        _use(subject),
        _evaluation(subject.report),
        _training(subject),
        _data(data_sources(subject.chain)),
        (doc.Heading("Limits"), *map(doc.Paragraph, UNKNOWN_LIMITS if subject.origin else LIMITS)),
        _lineage(subject),
        (doc.Heading("License"), doc.Paragraph(_license(subject))),
    )
    return doc.Document(title(subject), _subtitle(subject), tuple(block for part in blocks for block in part))


def _subtitle(subject: Subject) -> str:
    if subject.config.description:
        return subject.config.description
    model = subject.model
    return (
        f"A language model of {parameters(model, subject.vocab_size):,} parameters: {model.depth} layers, width "
        f"{model.dim}, {subject.vocab_size:,} tokens, context {model.sequence_len:,}. {_descent(subject)}"
    )


def _descent(subject: Subject) -> str:
    """Where the model begins, in a sentence."""
    asset, origin = subject.checkpoint.asset, subject.origin
    if origin is None:
        return f"It is {asset} of an aquarat pipeline, which trained its tokenizer and its weights from nothing."
    source = f"{origin.source} ({origin.form})"
    if origin.release:
        held = origin.release.checkpoint
        source += f", a release of {held.asset} {held.data_version[:12]}"
    if subject.is_imported:
        return f"It was imported from {source}."
    return f"It is {asset} of an aquarat pipeline that continued from a checkpoint imported from {source}."


def _license(subject: Subject) -> str:
    if subject.license:
        return f"The weights are published under the license {subject.license}. The data keep their licenses."
    assert subject.origin is not None, "only the license of an imported checkpoint is unknown"
    return f"The license of the weights is not known here: see their source, {subject.origin.source}."


def _warnings(subject: Subject) -> list[doc.Block]:
    if subject.report is None:
        return [doc.Paragraph("This checkpoint was released without an evaluation.", tone="warning")]
    return list(origin_band(questions_text(subject.report["evaluation"])))


def _use(subject: Subject) -> list[doc.Block]:
    """The examples, which a test runs as they stand."""
    name = subject.config.repository or HERE
    trust = ", trust_remote_code=True" if subject.remote_code else ""
    transformers = "\n".join((
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'name = "{name}"',
        f"tokenizer = AutoTokenizer.from_pretrained(name{trust})",
        f"model = AutoModelForCausalLM.from_pretrained(name{trust})",
        f'messages = [{{"role": "user", "content": "{QUESTION}"}}]',
        'how = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}',
        "ids = tokenizer.apply_chat_template(messages, **how)",
        'print(tokenizer.decode(model.generate(**ids)[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))',
    ))  # fmt: skip
    found = f"hf://{name}" if subject.config.repository else name
    ours = f'import aquarat_core as aq\n\nprint(aq.load("{found}").chat("{QUESTION}"))'
    return [
        doc.Heading("How to use it"),
        doc.Paragraph("With transformers, 5.24 or newer:"),
        doc.Code(transformers),
        doc.Paragraph(subject.form),
        doc.Paragraph("With aquarat, which runs no code from the release:"),
        doc.Code(ours),
    ]


def _evaluation(report: EvalReport | None) -> list[doc.Block]:
    if report is None:
        return []
    checkpoint, evaluation = report["checkpoint"], report["evaluation"]
    return [
        doc.Heading("Evaluation"),
        doc.Paragraph(baseline_sentence(checkpoint["asset"], report["summary"]), tone="finding"),
        doc.Paragraph(comparison_sentence(report["comparison"])),
        overview_table(_measured(report)),
        *above_chance(_measured(report)),
        doc.Paragraph(f"Grader: {evaluation['parser']}. Seed of orders and samples: {evaluation['seed']}."),
        *chat_core_section(report["chat_core"]),
        *(core_section(core) if (core := report.get("core")) else ()),
    ]


def _training(subject: Subject) -> list[doc.Block]:
    trained = [a for a in subject.chain if a.manifest.kind == "checkpoint" and "seconds" in a.manifest.metrics]
    if not trained:
        return [doc.Heading("Training"), doc.Paragraph("It was trained elsewhere, and the artifacts do not say how.")]
    stages = " to ".join(a.asset for a in trained)
    profiles = sorted({format_profile(a.manifest.profile, a.manifest.profile_sha256) for a in trained})
    return [
        doc.Heading("Training"),
        doc.Paragraph(f"From {stages}, profile {' and '.join(profiles)}."),
        cost_table((a.asset, cost_of(a)) for a in trained),
    ]


def _data(sources: Sequence[DataSource]) -> list[doc.Block]:
    rows = tuple((s.asset, s.name, s.revision[:12] or "-", s.data_version[:12], s.license) for s in sources)
    if not rows:
        return [doc.Heading("Data"), doc.Paragraph("The artifacts do not say what it was trained on.")]
    header = ("Asset", "Source", "Revision", "Data version", "License")
    return [doc.Heading("Data"), doc.Table(header, rows, text_columns=(0, 1, 2, 3, 4))]


def _lineage(subject: Subject) -> list[doc.Block]:
    rows = tuple(
        (a.asset, a.data_version[:12], a.sha256[:12], format_code(a.manifest.code), a.manifest.created[:10])
        for a in subject.chain
    )
    if origin := subject.origin:
        held = origin.release.lineage if origin.release else ()
        before = [(p.asset, p.data_version[:12], p.manifest_sha256[:12], "-", "-") for p in held]
        files = [(f"file {name}", sha256[:12], "-", "-", "-") for name, sha256 in sorted(origin.digests.items())]
        rows = (*before, *files, *rows)
    caption = "Parents first. Hashes are cut to 12 digits here; release.json has them whole."
    header = ("Asset", "Data version", "Manifest", "Code", "Made on")
    return [doc.Heading("Lineage"), doc.Table(header, rows, text_columns=(0, 1, 2, 3, 4), caption=caption)]
