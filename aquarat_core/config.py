"""One typed, range-checked config per stage; a profile fills all of them.

A profile is a YAML file whose top-level keys are the stages of the chain. `AQUARAT_PROFILE` names one of the
built-in profiles or gives the path of a file; `extends:` starts from another profile and changes single fields.
Unknown fields, values out of range and fields that contradict each other raise `ConfigError` before anything starts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PROFILES_DIR = Path(__file__).parent / "profiles"
DEFAULT_PROFILE = "demo"

M = TypeVar("M", bound=BaseModel)
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """A profile or an override that cannot be used; the message says which field, which value and the way out."""


class Strict(BaseModel):
    """Base of every config: immutable, and a field it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# --- data -----------------------------------------------------------------------------------------------------------


class AquaDatasetConfig(Strict):
    source: Literal["synthetic", "hub"] = "synthetic"
    """`synthetic` generates AQuA-shaped problems; `hub` loads the real data set from the Hugging Face Hub."""
    repo: str = "deepmind/aqua_rat"
    subset: str = "raw"
    n_train: AtLeastOne = 20_000
    """Rows of the training split kept (the whole split has 97,467)."""
    n_validation: AtLeastOne = 1_000
    n_test: AtLeastOne = 2_000
    families: tuple[str, ...] = ()
    """Synthetic only: problem families to draw from; empty means all."""
    max_level: Annotated[int, Field(ge=1, le=3)] = 3
    """Synthetic only: the hardest difficulty drawn."""
    on_bad_row: Literal["error", "drop"] = "error"
    """What a row with other than five options or a letter outside A-E does; dropped rows are counted."""
    seed: int = 1


class ChatSource(Strict):
    """One conversation data set: where its rows are and how many of each split to keep."""

    name: Literal["smoltalk", "gsm8k", "arc", "mmlu", "humaneval", "identity", "drills"]
    n_train: Count = 1_000
    n_test: Count = 100


class ChatDatasetsConfig(Strict):
    source: Literal["synthetic", "hub"] = "synthetic"
    """`synthetic` generates every source that is not real data; `hub` loads the real ones too."""
    sources: tuple[ChatSource, ...] = (ChatSource(name="identity"), ChatSource(name="drills"))
    max_level: Annotated[int, Field(ge=1, le=3)] = 3
    """Drills only: the hardest difficulty drawn."""
    assistant_name: str = "aquarat"
    """Name the generated identity conversations give the model."""
    assistant_facts: tuple[tuple[str, str], ...] = ()
    """Further things it is to know of itself: pairs of what a user asks and what it answers."""
    seed: int = 2

    @model_validator(mode="after")
    def _sources_fit(self) -> ChatDatasetsConfig:
        generated = {"identity", "drills"}
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
    source: Literal["synthetic", "hub"] = "synthetic"
    repo: str = "karpathy/fineweb-edu-100b-shuffle"
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
    max_level: Annotated[int, Field(ge=1, le=3)] = 3
    """Synthetic only: the hardest difficulty drawn."""
    max_documents_per_shard: AtLeastOne | None = None
    """Hub only: rows kept of each shard; null keeps all."""
    seed: int = 3

    @property
    def shards(self) -> tuple[int, ...]:
        """Numbers of the training shards."""
        return tuple(range(self.first_shards)) if self.first_shards else self.train_shards

    @model_validator(mode="after")
    def _validation_is_held_out(self) -> PretrainTextConfig:
        if self.validation_shard in self.shards:
            raise ValueError(f"validation_shard {self.validation_shard} is also a training shard: choose another")
        return self


# --- tokenizer and model --------------------------------------------------------------------------------------------

SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


class TokenizerConfig(Strict):
    vocab_size: Annotated[int, Field(ge=300, le=65_536)] = 1_024
    """Ids in all: 256 bytes, the merges and the special tokens."""
    pattern: str = SPLIT_PATTERN
    max_chars: AtLeastOne = 20_000_000
    doc_cap: AtLeastOne = 10_000
    """Characters of one document that are counted at most."""


class ModelConfig(Strict):
    depth: Annotated[int, Field(ge=1, le=64)] = 4
    width_per_layer: Annotated[int, Field(ge=8, le=256)] = 64
    """Model width is depth x this; 64 is the field's recipe."""
    head_size: Annotated[int, Field(ge=8, le=256, multiple_of=2)] = 64
    n_kv_head: AtLeastOne | None = None
    """Key/value heads; null means as many as query heads (no grouped-query attention)."""
    sequence_len: Annotated[int, Field(ge=16, le=65_536)] = 512
    embedding_taps: Annotated[int, Field(ge=0, le=8)] = 0
    """Width of a causal convolution over the embeddings: each token also sees this many before it at once."""
    mimetic_init: bool = False
    """Start each key matrix as a copy of its query matrix, so that attention begins by matching equal tokens."""
    window_pattern: Annotated[str, Field(pattern="^[LS]+$")] = "L"
    """Context of each layer, repeated over the depth: L sees everything, S a quarter of `sequence_len`, rounded up to
    128 tokens. The last layer always sees everything."""
    value_embeddings: bool = False
    """Every other layer adds a gated embedding of the token to its values."""
    residual_lambdas: bool = False
    """Every layer scales the residual stream and adds a share of the embeddings anew, both learned."""
    smear: bool = False
    """Each position adds a gated share of the embedding before it."""
    backout: bool = False
    """A learned share of the residual stream at half depth is taken out again before the head."""
    qk_scale: Positive = 1.2
    """Normalised queries and keys are scaled by this each: without it attention cannot become sharp."""
    rope_base: Positive = 10_000.0
    softcap: Positive = 15.0

    @property
    def dim(self) -> int:
        return self.depth * self.width_per_layer

    @property
    def n_head(self) -> int:
        return self.dim // self.head_size

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def windows(self) -> tuple[int, ...]:
        """Tokens that each layer sees, itself included."""
        short = min(self.sequence_len, -(-self.sequence_len // 4 // 128) * 128)
        pattern = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.depth - 1)] + ["L"]
        return tuple(short if letter == "S" else self.sequence_len for letter in pattern)

    def has_value_embedding(self, layer: int) -> bool:
        """Whether this layer has one: every other layer, the last among them."""
        return self.value_embeddings and layer % 2 == (self.depth - 1) % 2

    @model_validator(mode="after")
    def _parts_fit(self) -> ModelConfig:
        if self.smear and self.embedding_taps:
            raise ValueError("smear and embedding_taps both mix in the tokens before: set one of them")
        if self.smear and self.dim < 24:
            raise ValueError(f"smear looks at 24 channels, and the width is {self.dim}")
        if self.dim % self.head_size:
            raise ValueError(
                f"head_size {self.head_size} does not divide the width {self.dim} (depth x width_per_layer)"
            )
        if self.n_head % self.kv_heads:
            raise ValueError(f"n_kv_head {self.n_kv_head} does not divide the {self.n_head} query heads")
        return self


# --- training -------------------------------------------------------------------------------------------------------


class OptimConfig(Strict):
    matrix_lr: Positive = 0.02
    """Muon, the matrices inside the blocks."""
    embedding_lr: Positive = 0.2
    unembedding_lr: Positive = 0.004
    scalar_lr: Positive = 0.5
    """Of the scalars that the model's options learn; residual scales take a hundredth of it."""
    lr_scale: Positive = 1.0
    """Multiplies all rates; fine-tuning stages lower this one number."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Muon's matrices, falling to zero over the run."""
    momentum_first: Fraction = 0.95
    """Muon's momentum at the first step; it moves to `momentum` over `momentum_steps`."""
    momentum: Fraction = 0.95
    momentum_steps: Count = 0
    momentum_last: Fraction | None = None
    """Where Muon's momentum goes during the warm-down; null keeps it."""
    muon_beta2: Fraction | None = 0.9
    """Of the mean squares that even out the rows of Muon's updates (NorMuon); null leaves the rows as they are."""
    embedding_betas: tuple[Fraction, Fraction] = (0.8, 0.95)
    head_betas: tuple[Fraction, Fraction] = (0.8, 0.95)
    warmup: Fraction = 0.0
    """Share of the steps that warm up linearly from zero."""
    warmdown: Fraction = 0.2
    """Share of the steps at the end that fall linearly to `final_lr`."""
    final_lr: Fraction = 0.0
    grad_clip: Positive | None = 1.0
    """Largest global gradient norm, over all ranks; null does not clip."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> OptimConfig:
        if self.warmup + self.warmdown > 1:
            raise ValueError(f"warmup {self.warmup} and warmdown {self.warmdown} are more than the whole run together")
        return self


class LaunchConfig(Strict):
    """How torchrun starts a training stage."""

    nproc: AtLeastOne = 2
    """Processes on this host: one per GPU, or CPU ranks with gloo."""
    threads: AtLeastOne = 1
    """CPU threads of each process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; masters are float32. `auto` is bfloat16 where the hardware multiplies it natively."""
    compile: Literal["auto", "never", "always"] = "auto"
    """`torch.compile` of the training step's loss: `auto` on GPUs alone, where it gives way if it fails. On CPUs
    compiling outlasts short runs, and the fused functions need none. What was compiled is cached on the host from one
    stage to the next."""
    attention: Literal["auto", "sdpa", "flex", "fa3"] = "auto"
    """Kernel of attention in base, mid and SFT: `auto` is FlashAttention-3 on Hopper where its package is installed,
    else FlexAttention for windows in compiled code, else torch's own; one that fails when it is tried gives way. All
    give the same but for rounding. On CPUs short rows always take the fused function."""
    float8: bool = False
    """Multiply the matrices of the blocks in 8-bit floats (base, mid and SFT), on GPUs that can: faster, less exact."""


class WandbConfig(Strict):
    project: str = "aquarat"
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online with a key in the environment and offline without."""


class CheckpointConfig(Strict):
    """When a running stage saves its state, so that it can be killed and go on."""

    every_minutes: Positive | None = 5.0
    """Minutes between two saves; null saves by steps alone."""
    every_steps: AtLeastOne | None = None
    """Steps between two saves, beside those by the clock; null saves by the clock alone."""
    keep_last: AtLeastOne = 2
    keep_every_steps: AtLeastOne | None = None
    """Saves at multiples of this step stay until the stage has published its artifact."""
    resume: str = "auto"
    """`auto` goes on from the state of a run with this config, data and code, `never` starts from the beginning;
    anything else names the state of another run in the store, `work/<stage>/<key>`, whose code alone may differ."""


class SamplesConfig(Strict):
    """What a model is asked while it trains, so that people can read what it says."""

    every: AtLeastOne | None = 250
    """Steps between two rounds, beside the one after the last step; null never asks."""
    prompts: tuple[str, ...] = ("The", "12 + 7 =", "A train goes 60 km in 2 hours. What is its speed?")
    """Beginnings of text; in chat stages messages of the user, before two validation questions."""
    max_new_tokens: AtLeastOne = 48
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    """0 takes the most likely token."""


class TrainConfig(Strict):
    """What base, mid and SFT training share."""

    optim: OptimConfig = OptimConfig()
    launch: LaunchConfig = LaunchConfig()
    wandb: WandbConfig = WandbConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: SamplesConfig = SamplesConfig()
    steps: AtLeastOne = 100
    batch_tokens: AtLeastOne = 8_192
    """Tokens of one optimizer step over all ranks."""
    micro_batch_rows: AtLeastOne = 8
    """Rows of `sequence_len` tokens that one rank holds in one forward pass."""
    eval_every: AtLeastOne = 50
    eval_tokens: AtLeastOne = 65_536
    seed: int = 10


class BaseConfig(TrainConfig):
    model: ModelConfig = ModelConfig()
    target_flops: Positive | None = None
    """Train for this many FLOPs instead of `steps`."""
    tokens_per_parameter: Positive | None = None
    """Train on this many tokens for each weight of a matrix product instead of `steps`."""

    @model_validator(mode="after")
    def _one_horizon(self) -> BaseConfig:
        if self.target_flops is not None and self.tokens_per_parameter is not None:
            raise ValueError("target_flops and tokens_per_parameter both set the number of steps: set one of them")
        return self


class MixtureEntry(Strict):
    """One data set of a chat mixture."""

    name: str
    """`aqua`, or a source of chat_datasets."""
    repeat: Annotated[int, Field(ge=1, le=100)] = 1
    limit: AtLeastOne | None = None
    """Rows taken; null takes all."""
    permutations: AtLeastOne = 1
    """AQuA only: copies of each row, each with its options in another order."""


class ChatTrainConfig(TrainConfig):
    """SFT and, with other defaults, mid-training: conversations, packed whole, with a loss mask."""

    samples: SamplesConfig = SamplesConfig(prompts=("Who are you?", "What is 12 + 7?"))
    mixture: tuple[MixtureEntry, ...] = (MixtureEntry(name="aqua"),)
    loss_on: Literal["all", "assistant"] = "assistant"
    """Mid-training learns every token, SFT the assistant's alone."""


class MidConfig(ChatTrainConfig):
    loss_on: Literal["all", "assistant"] = "all"


class RLOptimConfig(OptimConfig):
    lr_scale: Positive = 0.05
    warmdown: Fraction = 1.0


class ObjectiveConfig(Strict):
    """What an RL update maximises. The defaults are strictly on-policy GRPO without the group's deviation."""

    advantage: Literal["centred", "group_std"] = "centred"
    """A reward less its group's mean, or that over the group's standard deviation."""
    updates_per_batch: Annotated[int, Field(ge=1, le=16)] = 1
    """Optimizer steps on each batch of samples; from the second on importance ratios differ from 1."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of each token, or the geometric mean over its completion (GSPO)."""
    clip: Literal["ppo", "cispo"] = "ppo"
    """`ppo` drops the gradient of what is clipped, `cispo` keeps it with a clipped weight."""
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    clip_high: Positive = 0.2
    """How far a ratio may rise; above clip_low it is the clip-higher of DAPO (0.28 there, 5 in CISPO)."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """With `ppo`: bound of the ratio where the advantage is negative, e.g. 3."""
    truncate_importance: Annotated[float, Field(ge=1)] | None = None
    """Largest weight trainer / sampler probability of a token, e.g. 2; null does not weigh."""
    kl: Literal["none", "k1", "k3"] = "none"
    """KL to the policy at the start: off each token's advantage (k1) or added to the loss (k3)."""
    kl_weight: Annotated[float, Field(ge=0)] = 0.001

    @model_validator(mode="after")
    def _clip_fits(self) -> ObjectiveConfig:
        if self.dual_clip is not None and self.clip != "ppo":
            raise ValueError("dual_clip belongs to clip 'ppo': leave it out, or set clip to 'ppo'")
        return self


class RewardConfig(Strict):
    """What a completion earns."""

    kind: Literal["answer", "probability"] = "answer"
    """`answer`: 1 for the right letter in form, else 0. `probability`: for an answer in form, how probable the policy
    finds the right letter in its place."""
    format_bonus: Annotated[float, Field(ge=0, lt=0.2)] = 0.0
    """Paid for any well-formed answer; a policy that cannot solve the questions learns form alone from it."""
    control: Literal["none", "random", "constant"] = "none"
    """Rewards that know nothing of the answer, to show what they teach: a fifth at random, or for the letter A."""
    overlong_tokens: Count = 0
    """The last tokens of the budget in which the reward falls by up to 1; 0 does not punish length."""


class CurriculumConfig(Strict):
    """Which questions are drawn more often, by their pass rate beyond chance."""

    enabled: bool = False
    easy: Fraction = 0.9
    hard: Fraction = 0.05
    """Shares of the way from chance to 1 beyond which a question counts as easy, and up to which as hard."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.2
    """How often an easy or a hard question is drawn for each draw of another."""
    memory: Fraction = 0.5
    """Share of the old pass rate that is kept when a question is seen again."""


class RLConfig(Strict):
    optim: RLOptimConfig = RLOptimConfig()
    launch: LaunchConfig = LaunchConfig()
    wandb: WandbConfig = WandbConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    reward: RewardConfig = RewardConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    steps: AtLeastOne = 100
    prompts_per_step: AtLeastOne = 16
    """Questions of one step over all ranks."""
    group_size: Annotated[int, Field(ge=2, le=256)] = 16
    """Completions sampled of each question."""
    refill_rounds: Annotated[int, Field(ge=0, le=8)] = 0
    """How often groups that all earned the same are replaced by other questions' (dynamic sampling)."""
    max_new_tokens: AtLeastOne = 64
    """Of a completion, those that the calculator says included: they take room like any other."""
    calculator: bool = False
    """Answer the calls that the policy makes of the calculator, in training and on held-out questions. What it says is
    read and not learned: it counts in no loss, KL, entropy or length."""
    temperature: Positive = 1.0
    micro_batch_rows: AtLeastOne = 64
    rollout_rows: AtLeastOne = 1024
    """Completions that one rank samples at a time."""
    limit: AtLeastOne | None = None
    """Training questions used; null uses all."""
    eval_every: AtLeastOne = 25
    eval_questions: AtLeastOne = 256
    probe_questions: AtLeastOne = 32
    """Held-out questions with rationale on which letters and attention are probed at each evaluation."""
    min_parse_rate: Fraction = 0.5
    """The first batch's share of completions with a well-formed answer below which the stage stops."""
    min_first_reward: Fraction = 0.02
    max_first_reward: Fraction = 0.98
    """Mean reward of the first batch outside of which the stage stops: there is nothing to learn from."""
    max_zero_variance: Fraction = 0.95
    """Share of the first batch's groups that may have earned the same throughout."""
    publish: Literal["best", "last"] = "best"
    """The best policy by held-out accuracy, that of SFT included, or the last one. The latest within one standard error
    of the highest is the best."""
    seed: int = 20


class EvalConfig(Strict):
    launch: LaunchConfig = LaunchConfig()
    split: Literal["validation", "test"] = "test"
    limit: AtLeastOne | None = None
    permute_options: bool = True
    """Put each question's options in a seeded random order, so that no letter is favoured."""
    max_new_tokens: AtLeastOne = 64
    calculator: bool = False
    """Answer the calls that the model makes of the calculator."""
    batch_rows: AtLeastOne = 256
    bpb_tokens: AtLeastOne = 65_536
    """Tokens of validation text scored for bits per byte (base and mid)."""
    seed: int = 30


class Profile(Strict):
    """All stages of the chain, each under the name of its asset."""

    name: str
    description: str
    aqua_dataset: AquaDatasetConfig = AquaDatasetConfig()
    chat_datasets: ChatDatasetsConfig = ChatDatasetsConfig()
    pretrain_text: PretrainTextConfig = PretrainTextConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    base_checkpoint: BaseConfig = BaseConfig()
    mid_checkpoint: MidConfig = MidConfig()
    sft_checkpoint: ChatTrainConfig = ChatTrainConfig()
    rl_checkpoint: RLConfig = RLConfig()
    eval_report: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _stages_fit_each_other(self) -> Profile:
        T = self.base_checkpoint.model.sequence_len
        for stage in ("base_checkpoint", "mid_checkpoint", "sft_checkpoint"):
            train: TrainConfig = getattr(self, stage)
            per_pass = train.micro_batch_rows * T * train.launch.nproc
            if train.batch_tokens % per_pass:
                raise ValueError(
                    f"{stage}.batch_tokens {train.batch_tokens} is not a multiple of micro_batch_rows x sequence_len x "
                    f"launch.nproc = {train.micro_batch_rows} x {T} x {train.launch.nproc} = {per_pass}"
                )
        if self.rl_checkpoint.prompts_per_step % self.rl_checkpoint.launch.nproc:
            raise ValueError(
                f"rl_checkpoint.prompts_per_step {self.rl_checkpoint.prompts_per_step} is not a multiple of "
                f"launch.nproc {self.rl_checkpoint.launch.nproc}"
            )
        known = {"aqua", *(s.name for s in self.chat_datasets.sources)}
        for stage in ("mid_checkpoint", "sft_checkpoint"):
            for entry in getattr(self, stage).mixture:
                if entry.name not in known:
                    raise ValueError(f"{stage}.mixture names {entry.name!r}; chat_datasets.sources has {sorted(known)}")
        return self


# --- loading --------------------------------------------------------------------------------------------------------


def profile_names() -> list[str]:
    """Names of the built-in profiles."""
    return sorted(p.stem for p in PROFILES_DIR.glob("*.yaml"))


def load_profile(name_or_path: str | None = None, overrides: dict[str, Any] | None = None) -> Profile:
    """The profile of that name (or YAML path), with nested `overrides` applied.

    Without a name, `AQUARAT_PROFILE` from the environment, else `demo`. Raises `ConfigError`.
    """
    asked = name_or_path or os.environ.get("AQUARAT_PROFILE") or DEFAULT_PROFILE
    raw = _merge(_read(asked, seen=()), overrides or {})
    return validate(Profile, raw, f"profile {asked}")


def override(profile: Profile, changes: dict[str, Any]) -> Profile:
    """`profile` with nested `changes` applied and everything checked again. Raises `ConfigError`."""
    return validate(Profile, _merge(profile.model_dump(), changes), f"profile {profile.name} with the run's overrides")


def validate(model: type[M], raw: Any, where: str) -> M:
    """`raw` as `model`, or a `ConfigError` with one line for each thing that is wrong."""
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        lines = "\n".join(f"  {_explain(err, model)}" for err in e.errors())
        raise ConfigError(f"{where} cannot be used:\n{lines}") from None


def _read(name_or_path: str, seen: tuple[str, ...]) -> dict[str, Any]:
    is_path = name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path
    path = Path(name_or_path) if is_path else PROFILES_DIR / f"{name_or_path}.yaml"
    if name_or_path in seen:
        raise ConfigError(f"profile {name_or_path} extends itself through {' -> '.join(seen)}")
    if not path.is_file():
        known = ", ".join(profile_names())
        raise ConfigError(f"unknown profile {name_or_path!r}: choose one of {known}, or give the path of a YAML file")
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        raise ConfigError(f"profile {path} is not valid YAML: {e}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"profile {path} must be a mapping of stages to fields")
    parent = raw.pop("extends", None)
    base = _read(parent, (*seen, name_or_path)) if parent else {}
    return _merge(base, raw)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(error: Any, model: type[BaseModel]) -> str:
    field = ".".join(str(part) for part in error["loc"]) or "profile"
    if error["type"] == "extra_forbidden":
        return f"{field}: unknown field; known here: {', '.join(_fields_at(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"{field}: missing"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(error["input"], (dict, BaseModel)) else f" (got {error['input']!r})"
    return f"{field}: {message}{shown}"


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    for part in loc:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ["see aquarat_core/config.py"]
        model = inner
    return sorted(model.model_fields)
