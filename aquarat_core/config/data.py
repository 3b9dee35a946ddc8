"""Sections of the stages that make data: questions, conversations, text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aquarat_core.config.fields import NonNegativeInt, PositiveInt, StrictModel
from aquarat_core.config.locations import Location, RowLocation
from aquarat_core.config.tasks import CORE, MAIN_TASK, TaskConfig, TaskDefinition

GENERATED_CHATS = ("identity", "drills", "spelling")
HUB_CHATS = ("smoltalk", "gsm8k", "arc", "arc_easy", "arc_challenge", "mmlu", "humaneval")
"""Names of the built-in conversation data sets."""
LICENSES = {
    "HuggingFaceTB/finemath": "ODC-By",
    "HuggingFaceTB/smol-smoltalk": "Apache-2.0",
    "HuggingFaceTB/smoltalk": "Apache-2.0",
    "allenai/ai2_arc": "CC-BY-SA-4.0",
    "cais/mmlu": "MIT",
    "deepmind/aqua_rat": "Apache-2.0",
    "karpathy/fineweb-edu-100b-shuffle": "ODC-By",
    "openai/gsm8k": "MIT",
    "openai/openai_humaneval": "MIT",
}
"""Licenses that the data sets' pages on the Hub state."""


class AquaDatasetConfig(StrictModel):
    """Questions in AQuA-RAT's form."""

    source: Literal["synthetic", "hub"] = "synthetic"
    """`synthetic` generates AQuA-shaped problems; `hub` loads the real data set from the Hugging Face Hub."""
    repo: str = "deepmind/aqua_rat"
    """Hub only: the data set's repository."""
    subset: str = "raw"
    """Hub only: the data set's configuration, `raw` or `tokenized`."""
    n_train: PositiveInt = 20_000
    """Rows kept of the training split (which has 97,467)."""
    n_validation: PositiveInt = 1_000
    """Rows kept of the validation split (which has 254)."""
    n_test: PositiveInt = 2_000
    """Rows kept of the test split (which has 254)."""
    families: tuple[str, ...] = ()
    """Synthetic only: problem families to draw from; empty means all."""
    max_level: Annotated[int, Field(ge=1, le=3)] = 3
    """Synthetic only: the maximum difficulty."""
    calculator_calls: bool = False
    """Rationales compute with calls of the calculator: generated ones all their equations, normalized ones of the Hub
    their exact equations of numbers (docs/data.md). A model that learns from them needs `calculator: true` in RL and
    evaluation."""
    on_bad_row: Literal["error", "drop"] = "error"
    """What to do with a row that has other than five options, a letter outside A-E, or a value of the wrong type or
    size; dropped rows are counted and named."""
    rationales: Literal["published", "normalized"] = "published"
    """Hub only: `normalized` brings rationales into one form, one step on each line, and finds out whether they reach
    the right option (docs/data.md)."""
    unreached: Literal["drop", "keep"] = "drop"
    """Normalized rationales only: training rows whose rationale does not reach the right option are left out, or kept
    with a mark."""
    max_rationale_chars: PositiveInt | None = None
    """Hub only: training rows whose rationale is longer, after the rules above, are left out; null keeps all. A small
    model that learns from short solutions repeats itself less, and more of its answers come to an end."""
    n_holdout: NonNegativeInt = 0
    """Hub only: training questions set aside for choosing between models, as the split `holdout`; the questions
    themselves decide which ones, and near duplicates of them are never trained on."""
    seed: int = 1
    """Decides which rows are kept and which problems are generated."""

    @model_validator(mode="after")
    def _published_rows(self) -> AquaDatasetConfig:
        if self.source == "synthetic" and (
            self.rationales != "published" or self.n_holdout or self.max_rationale_chars is not None
        ):
            raise ValueError(
                "rationales, max_rationale_chars and n_holdout are for published rows: set source to 'hub', or "
                "rationales to 'published', max_rationale_chars to null and n_holdout to 0"
            )
        if self.source == "hub" and self.calculator_calls and self.rationales == "published":
            raise ValueError(
                "calculator_calls of published rows needs their equations in one form: set rationales to 'normalized', "
                "or calculator_calls to false"
            )
        return self


class ChatSource(StrictModel):
    """One data set of conversations or documents: the location of its rows, and how many to keep of each split."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    """`smoltalk`, `gsm8k`, `arc` (or `arc_easy`, `arc_challenge`), `mmlu` and `humaneval` are loaded from the Hub;
    `identity`, `drills` (arithmetic) and `spelling` are generated; any other name is for your own rows, which need
    `train`."""
    train: RowLocation | None = None
    """Own rows only: location of the training rows, in the forms that docs/data.md describes."""
    test: RowLocation | None = None
    """Own rows only: location of the test split; null for none."""
    format: Literal["auto", "messages", "sharegpt", "documents"] = "auto"
    """Own rows only: `messages` rows have `[{role, content}]` in a column of that name, `sharegpt` rows have
    `[{from, value}]` in `conversations`; `auto` recognizes which of these two forms each row has. `documents` rows are
    plain text, not conversations."""
    column: Annotated[str, Field(min_length=1)] = "text"
    """Documents only: the column with the text of a row."""
    n_train: NonNegativeInt | None = None
    """Rows kept of the training split; null keeps 1,000, or all of your own."""
    n_validation: NonNegativeInt = 0
    """Tasks only: questions kept of the validation split; if none is published, they are held out of training."""
    n_test: NonNegativeInt | None = None
    """Rows kept of the test split; null keeps 100, or all of your own."""

    @property
    def has_documents(self) -> bool:
        """Whether its rows are documents."""
        return self.format == "documents"

    def kept(self, split: Literal["train", "validation", "test"]) -> int | None:
        """Maximum number of rows kept of the split; None for all."""
        if split == "validation":
            return self.n_validation
        n = self.n_train if split == "train" else self.n_test
        return n if n is not None or self.train else {"train": 1_000, "test": 100}[split]

    @model_validator(mode="after")
    def _name_fits(self) -> ChatSource:
        if self.name == MAIN_TASK:
            raise ValueError(f"{self.name!r} stands for the profile's own task: choose another name for your own data")
        if self.name == CORE:
            raise ValueError(f"{self.name!r} stands for the tasks of CORE: choose another name for your own data")
        if self.name in (*HUB_CHATS, *GENERATED_CHATS, "aqua"):
            if self.train or self.test or self.has_documents:
                raise ValueError(f"{self.name} is the name of a built-in data set: choose another name for your own")
        elif not self.train:
            known = ", ".join((*GENERATED_CHATS, *HUB_CHATS))
            raise ValueError(
                f"{self.name!r} is not a built-in data set ({known}): for your own conversations or documents, give "
                "their location under train"
            )
        if self.train and self.n_validation:
            raise ValueError(
                f"{self.name}: n_validation {self.n_validation} would do nothing, because only tasks have a validation "
                "split: leave it out"
            )
        if self.train and self.n_test and not self.test:
            raise ValueError(
                f"{self.name}: n_test {self.n_test} would do nothing without a test split: give its location under "
                "test, or leave n_test out"
            )
        if self.column != "text" and not self.has_documents:
            raise ValueError(f"{self.name}: column is only read of documents: add format: documents, or leave it out")
        return self


class ChatDatasetsConfig(StrictModel):
    """Conversations and documents for mid-training and SFT, and the questions of tasks other than AQuA-RAT."""

    source: Literal["synthetic", "hub"] = "synthetic"
    """`synthetic` generates all sources that are not real data; `hub` also loads the real ones. Your own rows are read
    with either."""
    sources: tuple[ChatSource, ...] = (ChatSource(name="identity"), ChatSource(name="drills"))
    """The data sets to make; the mixtures of mid-training and SFT refer to them by name."""
    tasks: dict[str, TaskConfig] = Field(default_factory=dict[str, TaskConfig])
    """Your own tasks whose rows are read; filled in from the profile's `tasks`."""
    max_level: Annotated[int, Field(ge=1, le=3)] = 3
    """Drills only: the maximum difficulty."""
    calculator_calls: bool = False
    """Drills and spelling only: solutions compute and count with calls of the calculator; those of gsm8k always do. A
    model that learns from them needs `calculator: true` in RL and evaluation."""
    assistant_name: str = "aquarat"
    """The model's name in the generated identity conversations."""
    assistant_facts: tuple[tuple[str, str], ...] = ()
    """Further facts that the model should know about itself: pairs of a user's question and the answer."""
    on_bad_row: Literal["error", "drop"] = "drop"
    """What to do with a row that is not a valid conversation or document (a null, an answer outside the choices, two
    consecutive turns of one role, a blank text); dropped rows are named."""
    seed: int = 2
    """Decides which rows are kept and which conversations are generated."""

    @model_validator(mode="after")
    def _sources_fit(self) -> ChatDatasetsConfig:
        names = [s.name for s in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources names a data set twice: {', '.join(names)}")
        if self.source == "synthetic" and set(names) & set(HUB_CHATS):
            wrong = ", ".join(sorted(set(names) & set(HUB_CHATS)))
            raise ValueError(f"sources {wrong} are on the Hub: set chat_datasets.source to 'hub' or leave them out")
        if any(s.name == "humaneval" and s.kept("train") for s in self.sources):
            raise ValueError("humaneval has no training split, it is a test: set its n_train to 0")
        return self


class PretrainTextConfig(StrictModel):
    """Documents for pretraining."""

    source: Literal["synthetic", "hub", "files"] = "synthetic"
    """`synthetic` generates documents; `hub` loads text shards from the Hugging Face Hub; `files` reads your own
    text."""
    train: Location | None = None
    """Files only: location of the documents, in the forms that docs/data.md describes."""
    validation: Location | None = None
    """Files only: location of the validation documents; those that are also in `train` are removed from it. If null,
    `validation_share` of the documents is held out."""
    validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """Files only: share of the documents held out if `validation` is null. The hash of a text decides, so equal texts
    are always on the same side."""
    column: Annotated[str, Field(min_length=1)] = "text"
    """Files only: the column with the text of a row; each row is a document."""
    documents: Literal["file", "line", "paragraph"] = "file"
    """Files only: the unit of a text file that becomes a document; paragraphs are separated by blank lines."""
    repo: str = "karpathy/fineweb-edu-100b-shuffle"
    """Hub only: the data set's repository."""
    on_bad_row: Literal["error", "drop"] = "drop"
    """What to do with a document that cannot be used (not valid UTF-8, no text, too long, a line that is not JSON);
    dropped ones are counted, and the first is named in the log."""
    train_shards: tuple[NonNegativeInt, ...] = (0,)
    """Hub only: numbers of the training shards, `shard_NNNNN.parquet`."""
    first_shards: PositiveInt | None = None
    """Hub only: take the first this many shards instead of `train_shards`."""
    parallel_downloads: Annotated[int, Field(ge=1, le=32)] = 4
    """Hub only: number of shards fetched and cleaned at a time, by a process each."""
    validation_shard: NonNegativeInt = 1822
    """Hub only: the pinned validation shard; must not be a training shard."""
    n_documents: PositiveInt = 20_000
    """Synthetic only: number of documents generated for training."""
    n_validation_documents: PositiveInt = 500
    """Synthetic only: number of documents generated for validation."""
    added_documents: NonNegativeInt = 0
    """Hub and files only: this many generated documents are one more training shard. Some are lists of options in which
    values are looked up: a model of a few million parameters learns from them to find an option's letter."""
    max_level: Annotated[int, Field(ge=1, le=3)] = 3
    """Maximum difficulty of generated documents."""
    max_documents_per_shard: PositiveInt | None = None
    """Hub only: rows kept of each shard; null keeps all."""
    seed: int = 3
    """Decides which documents are generated."""
    duplicates: Literal["none", "exact", "near"] = "none"
    """Which training documents are left out because they repeat an earlier one or one of validation. `exact` leaves out
    those that differ from it in case and white space only, `near` also those that share most of their runs of 5 words
    with it, as MinHash estimates. Documents of `added_documents` are not compared."""
    decontaminate: tuple[str, ...] = ()
    """Tasks whose validation and test questions must not occur in training documents. A document with 13 words in a row
    of such a question, or with all of a shorter one, is left out; `left_out.json` has their number and some examples.
    `task` is the profile's own task, and `core` stands for all questions of `eval_bundle`."""
    definitions: dict[str, TaskDefinition] = Field(default_factory=dict[str, TaskDefinition])
    """Definitions of the tasks in `decontaminate`; filled in from the profile's `tasks`."""

    @property
    def leaves_out(self) -> bool:
        """Whether duplicates or held-out questions are looked for."""
        return self.duplicates != "none" or bool(self.decontaminate)

    @property
    def shards(self) -> tuple[int, ...]:
        """Numbers of the training shards."""
        return tuple(range(self.first_shards)) if self.first_shards else self.train_shards

    @model_validator(mode="after")
    def _validation_is_held_out(self) -> PretrainTextConfig:
        if self.source == "files" and not self.train:
            raise ValueError("source is 'files', but train does not say where they are: write a path or a URL")
        if self.source != "files" and (self.train or self.validation):
            raise ValueError("train and validation are only read with source 'files': set it, or leave them out")
        if self.source == "synthetic" and self.added_documents:
            raise ValueError(
                "added_documents adds to published or your own text, and source 'synthetic' generates all of it: set "
                "n_documents instead"
            )
        if self.validation_shard in self.shards:
            raise ValueError(f"validation_shard {self.validation_shard} is also a training shard: choose another")
        return self
