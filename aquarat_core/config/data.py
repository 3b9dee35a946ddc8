"""Sections of the stages that make data: questions, conversations, text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aquarat_core.config.fields import NonNegativeInt, PositiveInt, StrictModel
from aquarat_core.config.locations import Location
from aquarat_core.config.tasks import TaskConfig

GENERATED_CHATS = ("identity", "drills", "spelling")
HUB_CHATS = ("smoltalk", "gsm8k", "arc", "arc_easy", "arc_challenge", "mmlu", "humaneval")
"""Names of conversation data sets that are built in."""


class AquaDatasetConfig(StrictModel):
    """Questions in AQuA-RAT's form."""

    source: Literal["synthetic", "hub"] = "synthetic"
    """`synthetic` generates AQuA-shaped problems; `hub` loads the real data set from the Hugging Face Hub."""
    repo: str = "deepmind/aqua_rat"
    """Hub only: the data set's repository."""
    subset: str = "raw"
    """Hub only: the data set's configuration, `raw` or `tokenized`."""
    n_train: PositiveInt = 20_000
    """Rows of the training split kept (the whole split has 97,467)."""
    n_validation: PositiveInt = 1_000
    """Rows of the validation split kept (the whole split has 254)."""
    n_test: PositiveInt = 2_000
    """Rows of the test split kept (the whole split has 254)."""
    families: tuple[str, ...] = ()
    """Synthetic only: problem families to draw from; empty means all."""
    max_level: Annotated[int, Field(ge=1, le=3)] = 3
    """Synthetic only: the hardest difficulty drawn."""
    calculator_calls: bool = False
    """Synthetic only: rationales calculate by calls of the calculator. A model that learns from them needs
    `calculator: true` in RL and evaluation."""
    on_bad_row: Literal["error", "drop"] = "error"
    """What a row does that has other than five options, a letter outside A-E, or a value of another type or size;
    dropped rows are counted and named."""
    seed: int = 1
    """Decides which rows are kept and which problems are generated."""


class ChatSource(StrictModel):
    """One conversation data set: where its rows are and how many of each split to keep."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    """`smoltalk`, `gsm8k`, `arc` (or `arc_easy`, `arc_challenge`), `mmlu` and `humaneval` are loaded from the Hub,
    `identity`, `drills` (arithmetic) and `spelling` are generated; any other name is for conversations of one's own,
    and needs `train`."""
    train: Location | None = None
    """Own conversations only: where those to train on are, as docs/data.md describes it."""
    test: Location | None = None
    """Own conversations only: where the test split is; null makes none."""
    format: Literal["auto", "messages", "sharegpt"] = "auto"
    """Own conversations only: `messages` has `[{role, content}]` in a column of that name, `sharegpt` has `[{from,
    value}]` in `conversations`; `auto` tells them apart row by row."""
    n_train: NonNegativeInt | None = None
    """Conversations of the training split kept; null keeps 1,000, of own conversations all."""
    n_validation: NonNegativeInt = 0
    """Tasks only: questions of the validation split kept; where none is published, they are held out of training."""
    n_test: NonNegativeInt | None = None
    """Conversations of the test split kept; null keeps 100, of own conversations all."""

    def kept(self, split: Literal["train", "validation", "test"]) -> int | None:
        """How many rows of the split are kept at most; None for all."""
        if split == "validation":
            return self.n_validation
        n = self.n_train if split == "train" else self.n_test
        return n if n is not None or self.train else {"train": 1_000, "test": 100}[split]

    @model_validator(mode="after")
    def _name_fits(self) -> ChatSource:
        if self.name in (*HUB_CHATS, *GENERATED_CHATS, "aqua"):
            if self.train or self.test:
                raise ValueError(f"the name {self.name} stands for a built-in data set: give one's own another name")
        elif not self.train:
            known = ", ".join((*GENERATED_CHATS, *HUB_CHATS))
            raise ValueError(
                f"{self.name!r} is no built-in data set ({known}): for conversations of one's own, write under train "
                "where they are"
            )
        return self


class ChatDatasetsConfig(StrictModel):
    """Conversations for mid-training and SFT, and the questions of tasks other than AQuA-RAT."""

    source: Literal["synthetic", "hub"] = "synthetic"
    """`synthetic` generates every source that is not real data; `hub` loads the real ones too. Own conversations are
    read with either."""
    sources: tuple[ChatSource, ...] = (ChatSource(name="identity"), ChatSource(name="drills"))
    """The data sets to make; mixtures of mid-training and SFT name them."""
    tasks: dict[str, TaskConfig] = Field(default_factory=dict[str, TaskConfig])
    """Tasks of one's own to read the rows of; filled in from the profile's `tasks`."""
    max_level: Annotated[int, Field(ge=1, le=3)] = 3
    """Drills only: the hardest difficulty drawn."""
    calculator_calls: bool = False
    """Drills and spelling only: solutions calculate and count by calls of the calculator; those of gsm8k always do. A
    model that learns from them needs `calculator: true` in RL and evaluation."""
    assistant_name: str = "aquarat"
    """Name the generated identity conversations give the model."""
    assistant_facts: tuple[tuple[str, str], ...] = ()
    """Further things it is to know of itself: pairs of what a user asks and what it answers."""
    on_bad_row: Literal["error", "drop"] = "drop"
    """What a row does that is no conversation (a null, an answer beyond the choices, two turns of one role); dropped
    rows are named."""
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
    """`synthetic` generates documents; `hub` loads text shards from the Hugging Face Hub; `files` reads text of one's
    own."""
    train: Location | None = None
    """Files only: where the documents are, as docs/data.md describes it."""
    validation: Location | None = None
    """Files only: where the validation documents are; those that are also in `train` are left out of it. With null,
    `validation_share` of the documents is held out."""
    validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """Files only: the part of the documents held out if `validation` is null. The hash of a text decides, so that equal
    texts are on the same side whatever their order."""
    column: Annotated[str, Field(min_length=1)] = "text"
    """Files only: the column that holds a row's text; each row is a document."""
    documents: Literal["file", "line", "paragraph"] = "file"
    """Files only: what a document is in a text file; paragraphs are separated by blank lines."""
    repo: str = "karpathy/fineweb-edu-100b-shuffle"
    """Hub only: the data set's repository."""
    on_bad_row: Literal["error", "drop"] = "drop"
    """What a document does that cannot be used (not valid UTF-8, no text, too long, a line that is no JSON); dropped
    ones are counted, and the first is named in the log."""
    train_shards: tuple[NonNegativeInt, ...] = (0,)
    """Hub only: numbers of the training shards, `shard_NNNNN.parquet`."""
    first_shards: PositiveInt | None = None
    """Hub only: take this many shards from the first on, instead of `train_shards`."""
    parallel_downloads: Annotated[int, Field(ge=1, le=32)] = 4
    """Hub only: shards fetched at a time."""
    validation_shard: NonNegativeInt = 1822
    """Hub only: the pinned validation shard; must not be a training shard."""
    n_documents: PositiveInt = 20_000
    """Synthetic only: documents generated for training."""
    n_validation_documents: PositiveInt = 500
    """Synthetic only: documents generated for validation."""
    max_level: Annotated[int, Field(ge=1, le=3)] = 3
    """Synthetic only: the hardest difficulty drawn."""
    max_documents_per_shard: PositiveInt | None = None
    """Hub only: rows kept of each shard; null keeps all."""
    seed: int = 3
    """Decides which documents are generated."""

    @property
    def shards(self) -> tuple[int, ...]:
        """Numbers of the training shards."""
        return tuple(range(self.first_shards)) if self.first_shards else self.train_shards

    @model_validator(mode="after")
    def _validation_is_held_out(self) -> PretrainTextConfig:
        if self.source == "files" and not self.train:
            raise ValueError("source is 'files', and train does not say where they are: write a path or a URL")
        if self.source != "files" and (self.train or self.validation):
            raise ValueError("train and validation are read with source 'files' only: set it, or leave them out")
        if self.validation_shard in self.shards:
            raise ValueError(f"validation_shard {self.validation_shard} is also a training shard: choose another")
        return self
