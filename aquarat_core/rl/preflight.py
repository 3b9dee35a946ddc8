"""Checks before training, so that hours are not spent on an uninformative reward.

Before the first update, the reward is tested on answers of known worth that were encoded and decoded by the tokenizer,
like completions; then the metrics of the first batch must be within bounds. Each error names the bound and the likely
cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from aquarat_core.config import RLConfig
from aquarat_core.errors import StageError
from aquarat_core.tasks.task import A, Attempt, Example, Reward, Task
from aquarat_core.text.tokenizer import Tokenizer

MIN_GOLD = 0.99
"""Minimum share of gold answers that are rewarded; below 1 because a rationale may announce an answer of its own."""
MIN_EXAMPLES = 100
"""Number of examples needed to tell whether a constant answer is right too often."""


def check_reward(
    task: Task[A],
    examples: Sequence[Example[A]],
    tokenizer: Tokenizer,
    reward: Reward[A] | None = None,
    seed: int = 0,
) -> None:
    """Raises `StageError` unless `reward` (default: the task's own) pays the targets of `examples` and pays nothing for
    completions without an answer. The latter are tested on the examples as shown under `seed`."""
    graded = reward or task.grade

    def paid(example: Example[A], attempt: Attempt) -> bool:
        completion = tokenizer.decode(tokenizer.encode(attempt.text))
        return graded(example, completion, attempt.ended).reward >= 1.0

    # A target may name choices by their original order, so it is graded in that order.
    gold = [paid(e, Attempt(task.answer_text(e.reference) if e.target is None else e.target)) for e in examples]
    if (share := sum(gold) / len(gold)) < MIN_GOLD:
        raise StageError(
            f"the reward pays {share:.1%} of {len(gold)} gold answers but must pay {MIN_GOLD:.0%}: the parser does not "
            f"accept the form of the targets ({task.answer_form}), or the tokenizer does not decode what it encoded"
        )
    shown = [task.shown(e, seed) for e in examples]
    attempts = [task.worthless(e) for e in shown]
    for what in attempts[0]:
        earned = [paid(e, attempt[what]) for e, attempt in zip(shown, attempts, strict=True)]
        if share := sum(earned) / len(earned):
            raise StageError(
                f"the reward pays {share:.1%} of {what} but must pay none: the parser finds answers where there are "
                "none, and RL would learn to be paid for them"
            )
    _check_constant_answers(task, shown, paid)


def _check_constant_answers(
    task: Task[A], shown: Sequence[Example[A]], paid: Callable[[Example[A], Attempt], bool]
) -> None:
    """Checks that no constant answer is right more often than chance predicts, within five standard deviations."""
    if len(shown) < MIN_EXAMPLES:
        return
    chance = mean(task.chance(e) for e in shown)
    allowed = chance + 5 * (chance * (1 - chance) / len(shown)) ** 0.5
    for answer in task.categories:
        share = sum(paid(e, Attempt(task.answer_text(answer))) for e in shown) / len(shown)
        if share > allowed:
            raise StageError(
                f"always answering {answer} is right for {share:.1%} of {len(shown)} questions, but chance is "
                f"{chance:.0%}: the choices of these questions are not permuted, or one answer is right far too often"
            )


def check_first_batch(figures: Mapping[str, float], config: RLConfig, tasks: Sequence[str] = ()) -> None:
    """Raises `StageError` if the metrics of the first batch are outside the bounds of `config`; with several `tasks`,
    if those of any task are."""
    if not tasks:
        _check_first_batch(figures, config, "")
    for name in tasks:
        try:
            _check_first_batch(figures, config, f"/{name}")
        except StageError as e:
            raise StageError(f"task {name}: {e}") from None


def _check_first_batch(figures: Mapping[str, float], config: RLConfig, suffix: str) -> None:
    names = ("parse_rate", "mean_reward", "zero_variance_groups", "truncated_rate")
    parsed, reward, silent, cut_off = (figures[f"rl/{x}{suffix}"] for x in names)
    if parsed < config.min_parse_rate:
        raise StageError(
            f"only {parsed:.0%} of the first completions end in a well-formed answer (rl_checkpoint.min_parse_rate is "
            f"{config.min_parse_rate:.0%}): train SFT longer, or raise rl_checkpoint.max_new_tokens "
            f"({config.max_new_tokens}; {cut_off:.0%} cut off)"
        )
    if config.distills:  # a teacher corrects samples that earn nothing, and those of groups with equal rewards
        return
    if reward < config.min_first_reward:
        raise StageError(
            f"the mean reward of the first completions is {reward:.3f} (rl_checkpoint.min_first_reward is "
            f"{config.min_first_reward}), although {parsed:.0%} of them have the answer format: either the answers are "
            "never right (see the histogram of the SFT checkpoint's answers) or the right answers of these questions "
            "are wrong"
        )
    if reward > config.max_first_reward:
        raise StageError(
            f"the mean reward of the first completions is {reward:.3f} (rl_checkpoint.max_first_reward is "
            f"{config.max_first_reward}): there is nothing left to learn from these questions; choose harder ones, or "
            "check whether the prompt gives the answer away"
        )
    if silent > config.max_zero_variance:
        raise StageError(
            f"in {silent:.0%} of the first groups all completions have the same reward (rl_checkpoint."
            f"max_zero_variance is {config.max_zero_variance:.0%}), so there is no gradient: raise "
            f"rl_checkpoint.group_size ({config.group_size}) or temperature ({config.temperature}), or choose "
            "questions closer to the policy's level"
        )
