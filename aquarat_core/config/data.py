"""Sections of the stages that make data: questions, conversations, text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aquarat_core.config.fields import AtLeastOne, Count, Strict


class AquaDatasetConfig(Strict):
    """Questions in AQuA-RAT's form."""

    source: Literal["synthetic", "hub"] = "synthetic"
    """`synthetic` generates AQuA-shaped problems; `hub` loads the real data set from the Hugging Face Hub."""
    repo: str = "deepmind/aqua_rat"
    """Hub only: the data set's repository."""
    subset: str = "raw"
    """Hub only: the data set's configuration, `raw` or `tokenized`."""
    n_train: AtLeastOne = 20_000
    """Rows of the training split kept (the whole split has 97,467)."""
    n_validation: AtLeastOne = 1_000
    """Rows of the validation split kept (the whole split has 254)."""
    n_test: AtLeastOne = 2_000
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


class ChatSource(Strict):
    """One conversation data set: where its rows are and how many of each split to keep."""

    name: Literal["smoltalk", "gsm8k", "arc", "mmlu", "humaneval", "identity", "drills", "spelling"]
    """`identity`, `drills` (arithmetic) and `spelling` are generated; the others are loaded from the Hub."""
    n_train: Count = 1_000
    """Conversations of the training split kept."""
    n_test: Count = 100
    """Conversations of the test split kept."""


class ChatDatasetsConfig(Strict):
    """Conversations for mid-training and SFT."""

    source: Literal["synthetic", "hub"] = "synthetic"
    """`synthetic` generates every source that is not real data; `hub` loads the real ones too."""
    sources: tuple[ChatSource, ...] = (ChatSource(name="identity"), ChatSource(name="drills"))
    """The data sets to make; mixtures of mid-training and SFT name them."""
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
    """What a row does that is no conversation (a null, an answer beyond the choices); dropped rows are named."""
    seed: int = 2
    """Decides which rows are kept and which conversations are generated."""

    @model_validator(mode="after")
    def _sources_fit(self) -> ChatDatasetsConfig:
        generated = {"identity", "drills", "spelling"}
        names = [s.name for s in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources names a data set twice: {', '.join(names)}")
        if self.source == "synthetic" and set(names) - generated:
            wrong = ", ".join(sorted(set(names) - generated))
            raise ValueError(f"sources {wrong} are on the Hub: set chat_datasets.source to 'hub' or leave them out")
        if any(s.name == "humaneval" and s.n_train for s in self.sources):
            raise ValueError("humaneval has no training split, it is a test: set its n_train to 0")
        return self


class PretrainTextConfig(Strict):
    """Documents for pretraining."""

    source: Literal["synthetic", "hub"] = "synthetic"
    """`synthetic` generates documents; `hub` loads text shards from the Hugging Face Hub."""
    repo: str = "karpathy/fineweb-edu-100b-shuffle"
    """Hub only: the data set's repository."""
    on_bad_row: Literal["error", "drop"] = "drop"
    """What a document does that is not valid UTF-8; dropped ones are counted, and the first is named in the log."""
    train_shards: tuple[Count, ...] = (0,)
    """Hub only: numbers of the training shards, `shard_NNNNN.parquet`."""
    first_shards: AtLeastOne | None = None
    """Hub only: take this many shards from the first on, instead of `train_shards`."""
    parallel_downloads: Annotated[int, Field(ge=1, le=32)] = 4
    """Hub only: shards fetched at a time."""
    validation_shard: Count = 1822
    """Hub only: the pinned validation shard; must not be a training shard."""
    n_documents: AtLeastOne = 20_000
    """Synthetic only: documents generated for training."""
    n_validation_documents: AtLeastOne = 500
    """Synthetic only: documents generated for validation."""
    max_level: Annotated[int, Field(ge=1, le=3)] = 3
    """Synthetic only: the hardest difficulty drawn."""
    max_documents_per_shard: AtLeastOne | None = None
    """Hub only: rows kept of each shard; null keeps all."""
    seed: int = 3
    """Decides which documents are generated."""

    @property
    def shards(self) -> tuple[int, ...]:
        """Numbers of the training shards."""
        return tuple(range(self.first_shards)) if self.first_shards else self.train_shards

    @model_validator(mode="after")
    def _validation_is_held_out(self) -> PretrainTextConfig:
        if self.validation_shard in self.shards:
            raise ValueError(f"validation_shard {self.validation_shard} is also a training shard: choose another")
        return self
