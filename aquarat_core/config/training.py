"""Sections of the training stages, and the parts that they share with RL: optimizer, launch, checkpoints, samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aquarat_core.config.fields import NonNegativeInt, Positive, PositiveInt, Steps, StrictModel, UnitInterval
from aquarat_core.config.model import ModelConfig
from aquarat_core.config.tasks import MAIN_TASK, TaskDefinition


class OptimConfig(StrictModel):
    """Learning rates, schedules and clipping."""

    matrix_lr: Positive = 0.02
    """Muon, the matrices inside the blocks."""
    embedding_lr: Positive = 0.2
    """AdamW, the token embedding."""
    unembedding_lr: Positive = 0.004
    """AdamW, the output head."""
    scalar_lr: Positive = 0.5
    """Of the scalars that the model's options learn; residual scales take a hundredth of it."""
    lr_scale: Positive = 1.0
    """Multiplies all rates; fine-tuning stages lower this one number."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Muon's matrices, falling to zero over the run."""
    momentum_first: UnitInterval = 0.95
    """Muon's momentum at the first step; it moves to `momentum` over `momentum_steps`."""
    momentum: UnitInterval = 0.95
    """Muon's momentum after the first `momentum_steps`."""
    momentum_steps: NonNegativeInt = 0
    """Steps over which Muon's momentum rises."""
    momentum_last: UnitInterval | None = None
    """Where Muon's momentum goes during the warm-down; null keeps it."""
    muon_beta2: UnitInterval | None = 0.9
    """Of the mean squares that even out the rows of Muon's updates (NorMuon); null leaves the rows as they are."""
    embedding_betas: tuple[UnitInterval, UnitInterval] = (0.8, 0.95)
    """AdamW's decay rates of both moments for the embeddings."""
    head_betas: tuple[UnitInterval, UnitInterval] = (0.8, 0.95)
    """The same for the output head."""
    warmup: UnitInterval = 0.0
    """Share of the steps that warm up linearly from zero."""
    warmdown: UnitInterval = 0.2
    """Share of the steps at the end that fall linearly to `final_lr`."""
    final_lr: UnitInterval = 0.0
    """Share of the full rates at the last step."""
    grad_clip: Positive | None = 1.0
    """Largest global gradient norm, over all ranks; null does not clip."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> OptimConfig:
        if self.warmup + self.warmdown > 1:
            raise ValueError(f"warmup {self.warmup} and warmdown {self.warmdown} are more than the whole run together")
        return self


class LaunchConfig(StrictModel):
    """How torchrun starts a training stage."""

    nproc: PositiveInt = 2
    """Processes on this host: one per GPU, or CPU ranks with gloo."""
    threads: PositiveInt = 1
    """CPU threads of each process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPUs that torch sees, and the CPU without any."""
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
    deterministic: bool = True
    """On GPUs, gradients by kernels whose sums do not depend on which thread comes first, so that a run can be repeated
    and resumed bit for bit on the same kind of GPU. On CPUs they always are."""

    def compiles_on(self, device_type: str) -> bool:
        """Whether the training step's loss is compiled on `cpu` or `cuda`."""
        return self.compile == "always" or (self.compile == "auto" and device_type == "cuda")


class WandbConfig(StrictModel):
    """Where metrics are sent besides `metrics.jsonl`."""

    project: str = "aquarat"
    """Name of the W&B project."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online with a key in the environment and offline without."""


class CheckpointConfig(StrictModel):
    """When a running stage saves its state, so that it can be killed and continued."""

    every_minutes: Positive | None = 5.0
    """Minutes between two saves; null saves by steps alone."""
    every_steps: PositiveInt | None = None
    """Steps between two saves, beside those by the clock; null saves by the clock alone."""
    keep_last: PositiveInt = 2
    """How many of the latest saves are kept."""
    keep_every_steps: PositiveInt | None = None
    """Saves at multiples of this step stay until the stage has published its artifact."""
    resume: str = "auto"
    """`auto` continues from the state of a run with this config, these data and the same code in all that decides the
    result, `never` starts from the beginning; anything else names the state of another run in the store,
    `work/<stage>/<key>`, whose code alone may differ."""


class SamplesConfig(StrictModel):
    """What a model is asked while it trains, so that people can read what it says."""

    every: PositiveInt | None = 250
    """Steps between two rounds, beside the one after the last step; null never asks."""
    prompts: tuple[str, ...] = ("The", "12 + 7 =", "A train goes 60 km in 2 hours. What is its speed?")
    """Beginnings of text; in chat stages messages of the user, before two validation questions."""
    max_new_tokens: PositiveInt = 48
    """Tokens of an answer at most."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    """0 takes the most likely token."""


class TrainConfig(StrictModel):
    """What base, mid and SFT training share."""

    optim: OptimConfig = OptimConfig()
    launch: LaunchConfig = LaunchConfig()
    wandb: WandbConfig = WandbConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: SamplesConfig = SamplesConfig()
    steps: Steps = 100
    """Updates of the optimizer."""
    batch_tokens: PositiveInt = 8_192
    """Tokens of one optimizer step over all ranks."""
    micro_batch_rows: PositiveInt = 8
    """Rows of `sequence_len` tokens that one rank holds in one forward pass."""
    eval_every: PositiveInt = 50
    """Steps between two measurements of the validation loss."""
    eval_tokens: PositiveInt = 65_536
    """Validation tokens that one measurement reads, at most."""
    seed: int = 10
    """Decides the order of the rows."""


class PretrainConfig(TrainConfig):
    """Pretraining on plain text."""

    model: ModelConfig = ModelConfig()
    target_flops: Positive | None = None
    """Train for this many FLOPs instead of `steps`."""
    tokens_per_parameter: Positive | None = None
    """Train on this many tokens for each weight of a matrix product instead of `steps`."""

    @model_validator(mode="after")
    def _one_horizon(self) -> PretrainConfig:
        if self.target_flops is not None and self.tokens_per_parameter is not None:
            raise ValueError("target_flops and tokens_per_parameter both set the number of steps: set one of them")
        return self


class MixtureEntry(StrictModel):
    """One data set of a chat mixture."""

    name: str
    """`task` for the profile's task, another task's name, or a source of chat_datasets."""
    repeat: Annotated[int, Field(ge=1, le=100)] = 1
    """How often each row is in the mixture."""
    limit: PositiveInt | None = None
    """Rows taken; null takes all."""
    permutations: PositiveInt = 1
    """Of tasks with options: copies of each row, each with its options in another order."""


class ChatTrainConfig(TrainConfig):
    """SFT and, with other defaults, mid-training: conversations, packed whole, with a loss mask."""

    samples: SamplesConfig = SamplesConfig(prompts=("Who are you?", "What is 12 + 7?"))
    mixture: tuple[MixtureEntry, ...] = (MixtureEntry(name=MAIN_TASK),)
    """The data sets to learn from."""
    validation_task: str = MAIN_TASK
    """The task whose validation split the validation loss is of."""
    definitions: dict[str, TaskDefinition] = Field(default_factory=dict[str, TaskDefinition])
    """What the tasks of the mixture are; filled in from the profile's `tasks`."""
    loss_on: Literal["all", "assistant"] = "assistant"
    """Mid-training learns every token, SFT the assistant's alone."""
    too_long: Literal["leave_out", "trim"] = "leave_out"
    """A conversation that does not fit `sequence_len` + 1 tokens is left out, or loses its last pairs of user and
    assistant until it fits; one whose first pair does not fit is always left out."""


class MidConfig(ChatTrainConfig):
    """Mid-training: conversations and problems after plain text."""

    loss_on: Literal["all", "assistant"] = "all"
    """Which tokens have a loss: all, or those that the assistant says."""
