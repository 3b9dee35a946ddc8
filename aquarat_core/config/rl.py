"""The RL stage: objective, reward, curriculum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from aquarat_core.config.fields import NonNegativeInt, Positive, PositiveInt, Steps, StrictModel, UnitInterval
from aquarat_core.config.tasks import MAIN_TASK, TaskDefinition
from aquarat_core.config.training import CheckpointConfig, LaunchConfig, OptimConfig, WandbConfig


class RLOptimConfig(OptimConfig):
    """Learning rates, schedules and clipping, with RL's defaults."""

    lr_scale: Positive = 0.05
    """Multiplies all rates of the optimizer; RL takes far smaller steps than pretraining."""
    warmdown: UnitInterval = 1.0
    """Share of the steps at the end that fall linearly to `final_lr`."""


class ObjectiveConfig(StrictModel):
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
    """How far a ratio may fall below 1."""
    clip_high: Positive = 0.2
    """How far a ratio may rise; above clip_low it is the clip-higher of DAPO (0.28 there, 5 in CISPO)."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """With `ppo`: bound of the ratio where the advantage is negative, e.g. 3."""
    truncate_importance: Annotated[float, Field(ge=1)] | None = None
    """Largest weight trainer / sampler probability of a token, e.g. 2; null does not weigh."""
    kl: Literal["none", "k1", "k3"] = "none"
    """KL to the policy at the start: off each token's advantage (k1) or added to the loss (k3)."""
    kl_weight: Annotated[float, Field(ge=0)] = 0.001
    """Nats of KL are multiplied by this."""

    @model_validator(mode="after")
    def _clip_fits(self) -> ObjectiveConfig:
        if self.dual_clip is not None and self.clip != "ppo":
            raise ValueError("dual_clip belongs to clip 'ppo': leave it out, or set clip to 'ppo'")
        return self


class RewardConfig(StrictModel):
    """What a completion earns."""

    kind: Literal["answer", "probability"] = "answer"
    """`answer`: 1 for the right letter in form, else 0. `probability`: for an answer in form, how probable the policy
    finds the right letter in its place."""
    format_bonus: Annotated[float, Field(ge=0, lt=0.2)] = 0.0
    """Paid for any well-formed answer; a policy that cannot solve the questions learns form alone from it."""
    control: Literal["none", "random", "constant"] = "none"
    """Rewards that know nothing of the answer, to show what they teach: a fifth at random, or for the letter A."""
    overlong_tokens: NonNegativeInt = 0
    """The last tokens of the budget in which the reward falls by up to 1; 0 does not punish length."""


class CurriculumConfig(StrictModel):
    """Which questions are drawn more often, by their pass rate beyond chance."""

    enabled: bool = False
    """Off, questions are drawn in a shuffled order."""
    easy: UnitInterval = 0.9
    """Share of the way from chance to 1 from which a pass rate counts as easy."""
    hard: UnitInterval = 0.05
    """Share of the way from chance to 1 up to which a pass rate counts as hard."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.2
    """How often an easy or a hard question is drawn for each draw of another."""
    memory: UnitInterval = 0.5
    """Share of the old pass rate that is kept when a question is seen again."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> CurriculumConfig:
        if self.hard > self.easy:
            raise ValueError(f"hard {self.hard} is above easy {self.easy}: every question would be both")
        return self


class RLTask(StrictModel):
    """One task of a mixture that RL trains on."""

    name: str
    """`task` for the profile's own, or another task's name."""
    weight: Positive = 1.0
    """Its part of the questions of each step is its part of the weights, rounded to whole questions, one at least."""


class RLConfig(StrictModel):
    """Reinforcement learning on the training questions."""

    OLD_NAMES: ClassVar[Mapping[str, str]] = {"refill_rounds": "dynamic_sampling_rounds"}

    tasks: tuple[RLTask, ...] = (RLTask(name=MAIN_TASK),)
    """The tasks to learn from, one or several at once."""
    definitions: dict[str, TaskDefinition] = Field(default_factory=dict[str, TaskDefinition])
    """What those tasks are; filled in from the profile's `tasks`."""

    optim: RLOptimConfig = RLOptimConfig()
    launch: LaunchConfig = LaunchConfig()
    wandb: WandbConfig = WandbConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    reward: RewardConfig = RewardConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    steps: Steps = 100
    """Batches that are sampled and learned from."""
    prompts_per_step: PositiveInt = 16
    """Questions of one step over all ranks."""
    group_size: Annotated[int, Field(ge=2, le=256)] = 16
    """Completions sampled of each question."""
    dynamic_sampling_rounds: Annotated[int, Field(ge=0, le=8)] = 0
    """How often groups that all earned the same are replaced by other questions' (dynamic sampling)."""
    max_new_tokens: PositiveInt = 64
    """Of a completion, those that the calculator says included: they take room like any other."""
    calculator: bool = False
    """Answer the calls that the policy makes of the calculator, in training and on held-out questions. What it says is
    read and not learned: it counts in no loss, KL, entropy or length."""
    temperature: Positive = 1.0
    """Of sampling; log-probabilities of the update are taken at the same temperature."""
    micro_batch_rows: PositiveInt = 64
    """Completions that one rank holds in one forward pass of the update."""
    rollout_rows: PositiveInt = 1024
    """Completions that one rank samples at a time."""
    limit: PositiveInt | None = None
    """Training questions used of each task; null uses all."""
    eval_every: PositiveInt = 25
    """Steps between two evaluations on held-out questions."""
    eval_questions: PositiveInt = 256
    """Held-out questions of an evaluation, of each task."""
    probe_questions: PositiveInt = 32
    """Held-out questions with rationale on which letters and attention are probed at each evaluation."""
    min_parse_rate: UnitInterval = 0.5
    """The first batch's share of completions with a well-formed answer below which the stage stops."""
    min_first_reward: UnitInterval = 0.02
    """Mean reward of the first batch below which the stage stops: there is nothing to learn from."""
    max_first_reward: UnitInterval = 0.98
    """Mean reward of the first batch above which the stage stops: there is nothing left to learn."""
    max_zero_variance: UnitInterval = 0.95
    """Share of the first batch's groups that may have earned the same throughout."""
    publish: Literal["best", "last"] = "best"
    """The best policy by held-out accuracy, that of SFT included, or the last one. The latest within one standard error
    of the highest is the best."""
    seed: int = 20
    """Decides the order of questions and options, and the samples."""

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
                f"tasks must name one task or several different ones, and names {', '.join(names) or 'none'}"
            )
        if len(names) > self.prompts_per_step:
            raise ValueError(f"prompts_per_step {self.prompts_per_step} is less than one question for each task")
        if self.reward.overlong_tokens > self.max_new_tokens:
            raise ValueError(
                f"reward.overlong_tokens {self.reward.overlong_tokens} is more than max_new_tokens "
                f"{self.max_new_tokens}"
            )
        return self
