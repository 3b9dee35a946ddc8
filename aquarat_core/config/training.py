"""Sections of the training stages, and the parts shared with RL: optimizer, launch, checkpoints, samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aquarat_core.config.fields import (
    NonNegativeInt,
    Positive,
    PositiveInt,
    Steps,
    StrictModel,
    UnitInterval,
    ValidationSplit,
)
from aquarat_core.config.model import ModelConfig
from aquarat_core.config.tasks import MAIN_TASK, TaskDefinition


class OptimConfig(StrictModel):
    """Learning rates, schedules and clipping."""

    matrix_lr: Positive = 0.02
    """Muon's rate for the matrices in the blocks."""
    embedding_lr: Positive = 0.2
    """AdamW's rate for the token embedding."""
    unembedding_lr: Positive = 0.004
    """AdamW's rate for the output head."""
    scalar_lr: Positive = 0.5
    """Rate of the learned scalars of the model's options; residual scales use a hundredth of it."""
    lr_scale: Positive = 1.0
    """Multiplies all rates; fine-tuning stages lower this one number."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of Muon's matrices, which falls to zero over the run."""
    momentum_first: UnitInterval = 0.95
    """Muon's momentum at the first step; it changes to `momentum` over `momentum_steps`."""
    momentum: UnitInterval = 0.95
    """Muon's momentum after the first `momentum_steps`."""
    momentum_steps: NonNegativeInt = 0
    """Steps over which Muon's momentum changes."""
    momentum_last: UnitInterval | None = None
    """Muon's momentum at the end of the warm-down, in which it falls in the shape of the rates; null keeps it."""
    muon_beta2: UnitInterval | None = 0.9
    """Decay rate of the mean squares that normalize the rows of Muon's updates (NorMuon); null disables it."""
    embedding_betas: tuple[UnitInterval, UnitInterval] = (0.8, 0.95)
    """AdamW's decay rates of both moments for the embeddings."""
    head_betas: tuple[UnitInterval, UnitInterval] = (0.8, 0.95)
    """AdamW's decay rates of both moments for the output head."""
    warmup: UnitInterval = 0.0
    """Share of the steps, at the beginning, in which the rates rise linearly from zero."""
    warmdown: UnitInterval = 0.2
    """Share of the steps, at the end, in which the rates fall to `final_lr`."""
    warmdown_shape: Literal["linear", "cosine"] = "linear"
    """How the rates fall: in equal steps, or along half a cosine, slowly at first and slowly at last."""
    final_lr: UnitInterval = 0.0
    """Rates at the last step, as a share of the full rates."""
    grad_clip: Positive | None = 1.0
    """Maximum global gradient norm, over all ranks; null does not clip."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> OptimConfig:
        if self.warmup + self.warmdown > 1:
            raise ValueError(f"warmup {self.warmup} and warmdown {self.warmdown} together exceed the whole run")
        if self.warmdown_shape != "linear" and not self.warmdown:
            raise ValueError(
                f"warmdown_shape {self.warmdown_shape!r} would do nothing, because the rates do not fall: set warmdown "
                "above 0, or warmdown_shape to 'linear'"
            )
        return self


MAX_NODES = 4096
"""Upper limit of the hosts of a stage; a larger number must be a mistake."""
Nodes = Annotated[int, Field(ge=1, le=MAX_NODES)]


class LaunchConfig(StrictModel):
    """How torchrun starts a training stage."""

    nproc: PositiveInt = 2
    """Processes on each host: one per GPU, or CPU ranks with gloo."""
    nodes: Nodes = 1
    """Hosts of the stage, if so many are free when it starts; `--nodes` of a run replaces it."""
    min_nodes: Nodes | None = None
    """Fewest hosts with which it starts, also after a host was lost; null needs all of `nodes`."""
    threads: PositiveInt = 1
    """CPU threads of each process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses the GPUs that torch sees, or the CPU if there are none."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; master weights are float32. `auto` is bfloat16 if the hardware supports it natively."""
    compile: Literal["auto", "never", "always"] = "auto"
    """`torch.compile` of the training step's loss. `auto` compiles on GPUs only, and continues without if it fails. On
    CPUs compiling takes longer than short runs, and the fused functions do not need it. Compiled code is cached on the
    host from one stage to the next."""
    attention: Literal["auto", "sdpa", "flex", "fa3"] = "auto"
    """Attention kernel in base, mid and SFT. `auto` is FlashAttention-3 on Hopper if its package is installed, else
    FlexAttention for windows in compiled code, else torch's own; a kernel that fails a trial is replaced by the next.
    All give the same results except for rounding. On CPUs, short rows always use the fused function."""
    float8: bool = False
    """Multiply the blocks' matrices in 8-bit floats (base, mid and SFT) on GPUs that can: faster but less exact."""
    bucket_mb: Positive = 32.0
    """Megabytes of gradients that ranks exchange at a time while the backward pass computes the next ones. Less starts
    the exchange earlier, more needs fewer messages."""
    gather_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which ranks receive updated weights. `bfloat16` halves these bytes; owners and checkpoints keep the
    float32 weights, and `dtype` must be bfloat16, so that products see the same values (base, mid and SFT)."""
    two_level: bool = False
    """Exchange gradients and weights first among the ranks of a host, then across hosts, so that fewer bytes cross the
    network. On one host, or with one rank on each, it changes nothing."""
    deterministic: bool = True
    """On GPUs, compute gradients with kernels whose sums do not depend on thread order, so that a run can be repeated
    and resumed bit for bit on the same kind of GPU. On CPUs this is always so."""

    @model_validator(mode="after")
    def _fewest_hosts_come_first(self) -> LaunchConfig:
        if self.min_nodes is not None and self.min_nodes > self.nodes:
            raise ValueError(f"min_nodes {self.min_nodes} exceeds nodes {self.nodes}: lower the one or raise the other")
        return self

    def compiles_on(self, device_type: str) -> bool:
        """Whether the training step's loss is compiled on `cpu` or `cuda`."""
        return self.compile == "always" or (self.compile == "auto" and device_type == "cuda")


class WandbConfig(StrictModel):
    """Where metrics are sent besides `metrics.jsonl`."""

    project: str = "aquarat"
    """Name of the W&B project."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online if the environment has a key, and offline otherwise."""


class CheckpointConfig(StrictModel):
    """When a running stage saves its state, so that it can be killed and continued."""

    every_minutes: Positive | None = 5.0
    """Minutes between two saves; null saves only by steps."""
    every_steps: PositiveInt | None = None
    """Steps between two saves, in addition to those by the clock; null saves only by the clock."""
    keep_last: PositiveInt = 2
    """Number of the latest saves to keep."""
    keep_every_steps: PositiveInt | None = None
    """Saves at multiples of this step stay until the stage has published its artifact."""
    resume: str = "auto"
    """`auto` continues from the state of a run with this config, this data and the same code in everything that affects
    the result. `never` starts from the beginning. Anything else names the state of another run in the store,
    `work/<stage>/<key>`, of which only the code may differ."""


class SamplesConfig(StrictModel):
    """Prompts that a model answers while it trains, so that people can read what it says."""

    every: PositiveInt | None = 250
    """Steps between two rounds, in addition to the one after the last step; null disables them."""
    prompts: tuple[str, ...] = ("The", "12 + 7 =", "A train goes 60 km in 2 hours. What is its speed?")
    """Beginnings of text; in chat stages the user's messages, followed by two validation questions."""
    max_new_tokens: PositiveInt = 48
    """Maximum tokens of an answer."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    """0 always takes the most likely token."""


class TrainConfig(StrictModel):
    """Fields shared by base, mid and SFT training."""

    optim: OptimConfig = OptimConfig()
    launch: LaunchConfig = LaunchConfig()
    wandb: WandbConfig = WandbConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: SamplesConfig = SamplesConfig()
    steps: Steps = 100
    """Number of optimizer steps."""
    batch_tokens: PositiveInt = 8_192
    """Tokens per optimizer step, over all ranks."""
    micro_batch_rows: PositiveInt = 8
    """Rows of `sequence_len` tokens that one rank processes in one forward pass."""
    eval_every: PositiveInt = 50
    """Steps between two measurements of the validation loss."""
    eval_tokens: PositiveInt = 65_536
    """Maximum number of validation tokens for one measurement."""
    seed: int = 10
    """Decides the order of the rows."""


class PretrainConfig(TrainConfig):
    """Pretraining on plain text."""

    model: ModelConfig = ModelConfig()
    target_flops: Positive | None = None
    """Train for this many FLOPs instead of `steps`."""
    tokens_per_parameter: Positive | None = None
    """Train on this many tokens per weight of a matrix product instead of for `steps`."""

    @model_validator(mode="after")
    def _one_horizon(self) -> PretrainConfig:
        if self.target_flops is not None and self.tokens_per_parameter is not None:
            raise ValueError("target_flops and tokens_per_parameter both set the number of steps: set only one of them")
        return self


class MixtureEntry(StrictModel):
    """One data set of a chat mixture."""

    name: str
    """`task` for the profile's task, another task's name, or a source of chat_datasets."""
    repeat: Annotated[int, Field(ge=1, le=100)] = 1
    """How often each row appears in the mixture."""
    skip: NonNegativeInt = 0
    """Number of rows left out at the beginning of the data set. With `rl_checkpoint.limit` set to the same number, RL
    trains on questions that no earlier stage has practised."""
    limit: PositiveInt | None = None
    """Number of rows taken; null takes all."""
    permutations: PositiveInt = 1
    """For tasks with options: copies of each row, each with its options in another order."""
    answer_only: bool = False
    """For tasks: the answer alone, in its form, without the worked solution. Beside an entry with solutions it teaches
    a small model the form, but also to answer without reasoning."""


class ChatTrainConfig(TrainConfig):
    """SFT and, with other defaults, mid-training: conversations that are packed whole, with a loss mask, and
    documents."""

    samples: SamplesConfig = SamplesConfig(prompts=("Who are you?", "What is 12 + 7?"))
    mixture: tuple[MixtureEntry, ...] = (MixtureEntry(name=MAIN_TASK),)
    """The data sets to train on."""
    validation_task: str = MAIN_TASK
    """The task whose validation split the validation loss is measured on."""
    validation_split: ValidationSplit = "validation"
    """`holdout` measures it on the questions that `aqua_dataset.n_holdout` sets aside; tasks that have none use their
    validation split."""
    decontaminate: tuple[str, ...] = ()
    """Tasks of which no validation or test question may occur in a training row; those with one are left out, counted
    and listed. `task` is the profile's own."""
    definitions: dict[str, TaskDefinition] = Field(default_factory=dict[str, TaskDefinition])
    """Definitions of the mixture's tasks; filled in from the profile's `tasks`."""
    loss_on: Literal["all", "assistant"] = "assistant"
    """Mid-training learns every token, SFT only the assistant's. A mixture with documents needs `all`."""
    too_long: Literal["leave_out", "trim"] = "leave_out"
    """A conversation that does not fit into `sequence_len` + 1 tokens is left out, or loses its last pairs of user and
    assistant until it fits. If not even its first pair fits, it is always left out. Documents are cut into pieces."""


class MidConfig(ChatTrainConfig):
    """Mid-training: conversations, problems and chosen documents after plain text."""

    loss_on: Literal["all", "assistant"] = "all"
    """The tokens that have a loss: all, or only the assistant's. A mixture with documents needs `all`."""
