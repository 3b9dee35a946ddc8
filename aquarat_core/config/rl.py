"""Section of the RL stage: objective, reward, curriculum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

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
from aquarat_core.config.tasks import MAIN_TASK, TaskDefinition
from aquarat_core.config.training import CheckpointConfig, LaunchConfig, OptimConfig, WandbConfig


class RLOptimConfig(OptimConfig):
    """Learning rates, schedules and clipping, with RL's defaults."""

    lr_scale: Positive = 0.05
    """Multiplies all learning rates of the optimizer; RL takes far smaller steps than pretraining."""
    warmdown: UnitInterval = 1.0
    """Share of the steps, at the end, in which the rates fall to `final_lr`."""


class ObjectiveConfig(StrictModel):
    """The objective of an RL update. The defaults are strictly on-policy GRPO without division by the standard
    deviation."""

    advantage: Literal["centred", "group_std"] = "centred"
    """A reward minus its group's mean, optionally divided by the group's standard deviation."""
    updates_per_batch: Annotated[int, Field(ge=1, le=16)] = 1
    """Optimizer steps on each batch of samples; from the second on, importance ratios differ from 1."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of each token, or its geometric mean over the completion (GSPO)."""
    clip: Literal["ppo", "cispo"] = "ppo"
    """`ppo` drops the gradient of clipped tokens, `cispo` keeps it with a clipped weight."""
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    """How far a ratio may fall below 1."""
    clip_high: Positive = 0.2
    """How far a ratio may rise above 1; a value above clip_low is DAPO's clip-higher (0.28 there, 5 in CISPO)."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """With `ppo`: bound of the ratio for negative advantages, e.g. 3."""
    truncate_importance: Annotated[float, Field(ge=1)] | None = None
    """Upper limit of the weight trainer / sampler probability of a token, e.g. 2; null disables the weights."""
    kl: Literal["none", "k1", "k3"] = "none"
    """KL to the initial policy: subtracted from each token's advantage (k1) or added to the loss (k3)."""
    kl_weight: Annotated[float, Field(ge=0)] = 0.001
    """The KL, in nats, is multiplied by this."""

    @model_validator(mode="after")
    def _clip_fits(self) -> ObjectiveConfig:
        if self.dual_clip is not None and self.clip != "ppo":
            raise ValueError("dual_clip only works with clip 'ppo': leave it out, or set clip to 'ppo'")
        return self


class RewardConfig(StrictModel):
    """The reward of a completion."""

    kind: Literal["answer", "probability", "forced_letter"] = "answer"
    """`answer`: 1 for the right letter in the right form, else 0. `probability`: for an answer in that form, the
    policy's probability of the right letter at its position. `forced_letter`: for every completion, the probability of
    the right letter among the letters after a forced cue that follows the completion's solution; it needs no form and
    teaches none."""
    exact_after: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the steps, at the beginning, in which `kind` is paid. The steps after them are paid as by `answer`; null
    pays `kind` in all steps."""
    format_bonus: Annotated[float, Field(ge=0, lt=0.2)] = 0.0
    """Paid for any well-formed answer; a policy that cannot solve the questions learns only the form from it."""
    format_bonus_until: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The bonus ends for good after the first step in which more than this share of the completions is well-formed;
    null pays it in all steps."""
    control: Literal["none", "random", "constant"] = "none"
    """Rewards that ignore the right answer, to show what they teach: 1 for a random fifth, or for the letter A."""
    overlong_tokens: NonNegativeInt = 0
    """The reward falls by up to 1 within this many last tokens of the budget; 0 does not penalize length."""

    def steps_of_kind(self, steps: int) -> int:
        """How many of a run's `steps`, its first ones, are paid by `kind`; the others are exact."""
        return steps if self.exact_after is None else round(self.exact_after * steps)

    @model_validator(mode="after")
    def _changes_do_something(self) -> RewardConfig:
        if self.exact_after is not None and self.kind == "answer":
            raise ValueError(
                f"exact_after {self.exact_after} would do nothing, because the kind 'answer' is exact in all steps: "
                "set exact_after to null, or kind to 'probability' or 'forced_letter'"
            )
        if self.format_bonus_until is not None and not self.format_bonus:
            raise ValueError(
                f"format_bonus_until {self.format_bonus_until} would do nothing, because no bonus is paid: set it to "
                "null, or format_bonus above 0"
            )
        return self


class DistillationConfig(StrictModel):
    """Self-distillation from worked solutions, in place of rewards: a teacher with the policy's own weights also sees
    the solution of the question, and the policy learns its distribution at every token of its own samples."""

    teacher: Literal["none", "policy", "average"] = "none"
    """`policy` teaches with the policy's current weights, `average` with an exponential moving average of them, which
    is steadier. `none` trains on rewards."""
    average_decay: UnitInterval = 0.99
    """With `average`: the weight of the old average when a step is done; 1 keeps the weights of the start."""
    divergence: Literal["reverse", "forward"] = "reverse"
    """`reverse` minimizes KL(policy || teacher), `forward` KL(teacher || policy)."""
    top_k: PositiveInt | None = 20
    """The divergence is taken over the teacher's most likely tokens and, as one more class, all others together; null
    takes the whole vocabulary."""


class CurriculumConfig(StrictModel):
    """Which questions are drawn more often, depending on their pass rate above chance."""

    enabled: bool = False
    """If false, questions are drawn in a shuffled order."""
    easy: UnitInterval = 0.9
    """A question is easy from this pass rate on, as a share of the way from chance to 1."""
    hard: UnitInterval = 0.05
    """A question is hard up to this pass rate, as a share of the way from chance to 1."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.2
    """How often an easy or a hard question is drawn for each draw of another question."""
    memory: UnitInterval = 0.5
    """Weight of the old pass rate when a question is seen again."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> CurriculumConfig:
        if self.hard > self.easy:
            raise ValueError(f"hard {self.hard} is above easy {self.easy}: every question would be both")
        return self


class RLTask(StrictModel):
    """One task in a mixture for RL."""

    name: str
    """`task` for the profile's own task, or another task's name."""
    weight: Positive = 1.0
    """Relative share of the questions in each step, rounded to whole questions, at least one."""


class RLConfig(StrictModel):
    """Reinforcement learning on the training questions."""

    OLD_NAMES: ClassVar[Mapping[str, str]] = {"refill_rounds": "dynamic_sampling_rounds"}

    tasks: tuple[RLTask, ...] = (RLTask(name=MAIN_TASK),)
    """The tasks to train on, one or several at once."""
    definitions: dict[str, TaskDefinition] = Field(default_factory=dict[str, TaskDefinition])
    """Definitions of those tasks; filled in from the profile's `tasks`."""

    optim: RLOptimConfig = RLOptimConfig()
    launch: LaunchConfig = LaunchConfig()
    wandb: WandbConfig = WandbConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    reward: RewardConfig = RewardConfig()
    distillation: DistillationConfig = DistillationConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    steps: Steps = 100
    """Number of batches that are sampled and trained on."""
    prompts_per_step: PositiveInt = 16
    """Questions per step, over all ranks."""
    group_size: Annotated[int, Field(ge=2, le=256)] = 16
    """Completions sampled for each question."""
    dynamic_sampling_rounds: Annotated[int, Field(ge=0, le=8)] = 0
    """How often groups with equal rewards are replaced by groups of other questions (dynamic sampling)."""
    max_new_tokens: PositiveInt = 64
    """Maximum tokens of a completion, including the calculator's output, which takes room like any other tokens."""
    calculator: bool = False
    """Answer the policy's calls of the calculator, in training and on held-out questions. The policy reads the
    calculator's output but is not trained on it: it counts in no loss, KL, entropy or length."""
    temperature: Positive = 1.0
    """Sampling temperature; the update computes log-probabilities at the same temperature."""
    micro_batch_rows: PositiveInt = 64
    """Completions that one rank processes in one forward pass of the update."""
    rollout_rows: PositiveInt = 1024
    """Completions that one rank samples at a time."""
    limit: PositiveInt | None = None
    """Training questions used from each task; null uses all."""
    eval_every: PositiveInt = 25
    """Steps between two evaluations on held-out questions."""
    eval_questions: PositiveInt = 256
    """Held-out questions per evaluation, for each task."""
    validation_split: ValidationSplit = "validation"
    """The split of the held-out questions, by which the best policy is chosen; `holdout` takes those that
    `aqua_dataset.n_holdout` sets aside, and the validation split of tasks that have none."""
    decontaminate: tuple[str, ...] = ()
    """Tasks of which no validation or test question may occur in a training question; those with one are left out,
    counted and listed. `task` is the profile's own."""
    probe_questions: PositiveInt = 32
    """Held-out questions with a rationale on which each evaluation probes letters and attention."""
    min_parse_rate: UnitInterval = 0.5
    """The stage stops if the first batch has a smaller share of completions with a well-formed answer."""
    min_first_reward: UnitInterval = 0.02
    """The stage stops if the first batch has a lower mean reward: there is nothing to learn from."""
    max_first_reward: UnitInterval = 0.98
    """The stage stops if the first batch has a higher mean reward: there is nothing left to learn."""
    max_zero_variance: UnitInterval = 0.95
    """The stage stops if a larger share of the first batch's groups has equal rewards."""
    publish: Literal["best", "last"] = "best"
    """`best` keeps the best policy by held-out accuracy, including that of SFT; `last` keeps the last one. The best is
    the latest within one standard error of the highest accuracy."""
    seed: int = 20
    """Decides the order of questions and options, and the samples."""

    @model_validator(mode="after")
    def _keeps_its_weights(self) -> RLConfig:
        if self.launch.gather_dtype != "float32":
            raise ValueError(
                "launch.gather_dtype 'bfloat16' would round the policy, which is evaluated, compared and published as "
                "it is at the best step: set it to 'float32' for RL"
            )
        return self

    @model_validator(mode="after")
    def _bounds_fit(self) -> RLConfig:
        if self.min_first_reward > self.max_first_reward:
            raise ValueError(
                f"min_first_reward {self.min_first_reward} is above max_first_reward {self.max_first_reward}: no first "
                "batch could pass"
            )
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"tasks must name one task or several different ones, but names {', '.join(names) or 'none'}"
            )
        if len(names) > self.prompts_per_step:
            raise ValueError(f"prompts_per_step {self.prompts_per_step} is less than one question for each task")
        if self.reward.overlong_tokens > self.max_new_tokens:
            raise ValueError(
                f"reward.overlong_tokens {self.reward.overlong_tokens} is more than max_new_tokens "
                f"{self.max_new_tokens}"
            )
        share, kind = self.reward.exact_after, self.reward.kind
        if share is not None and (paid := self.reward.steps_of_kind(self.steps)) in (0, self.steps):
            raise ValueError(
                f"reward.exact_after {share} would do nothing, because it is {paid} of {self.steps} steps: "
                + (f"take reward.kind 'answer' instead of {kind!r}" if paid == 0 else "set it to null")
                + ", or change one of them"
            )
        return self

    @model_validator(mode="after")
    def _distillation_fits(self) -> RLConfig:
        """Refuses settings that would do nothing, because distillation learns from every sample whatever it earns."""
        if not self.distills:
            return self
        unused = {"objective": ObjectiveConfig(), "reward": RewardConfig(), "dynamic_sampling_rounds": 0}
        if given := [name for name, default in unused.items() if getattr(self, name) != default]:
            raise ValueError(
                f"distillation.teacher {self.distillation.teacher!r} replaces the objective on rewards, so "
                f"{' and '.join(given)} would have no effect: leave at the default, or set distillation.teacher to "
                "'none'"
            )
        return self

    @property
    def distills(self) -> bool:
        """Whether the policy learns from a teacher in place of rewards."""
        return self.distillation.teacher != "none"
