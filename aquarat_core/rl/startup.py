"""The stop at the start: hours are not spent on a reward that says nothing.

Before the first update the reward is tried on answers whose worth is known, through the tokenizer that completions
come from; then the first batch must lie within bounds. Each stop says which bound was broken and what is likely wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from aquarat_core.config import RLConfig
from aquarat_core.errors import StageError
from aquarat_core.rl.reward import Verdict, judge
from aquarat_core.tasks.aqua.question import Question, permute, prompt, target
from aquarat_core.tasks.choice import LETTERS, MARKER
from aquarat_core.text.tokenizer import Tokenizer

MIN_GOLD = 0.99
"""Share of the gold answers that must be rewarded: a rationale may announce an answer of its own."""

Judge = Callable[[str, bool, str], Verdict]


def check_reward(questions: Sequence[Question], tokenizer: Tokenizer, judge: Judge = judge, seed: int = 0) -> None:
    """Raises `StageError` unless `judge` pays the gold answers of `questions`, and nothing that does not answer."""
    shown = [permute(q, seed) for q in questions]

    def paid(text: Callable[[Question], str], ended: bool = True) -> float:
        said = (tokenizer.decode(tokenizer.encode(text(q))) for q in shown)
        earned = [judge(text, ended, q.correct).reward >= 1.0 for text, q in zip(said, shown, strict=True)]
        return sum(earned) / len(earned)

    # The rationale may name letters in the order it was written for: the gold answer is judged in that order.
    gold = [judge(tokenizer.decode(tokenizer.encode(target(q))), True, q.correct).reward >= 1.0 for q in questions]
    if (share := sum(gold) / len(gold)) < MIN_GOLD:
        raise StageError(
            f"the reward pays {share:.1%} of {len(gold)} gold answers, and must pay {MIN_GOLD:.0%}: the parser does "
            f"not read the form that the targets have ({MARKER!r} and a letter as the last line), or the tokenizer "
            "does not give back what it encodes"
        )
    for what, text, ended in _WORTHLESS:
        if share := paid(text, ended):
            raise StageError(
                f"the reward pays {share:.1%} of {what}, and must pay none: the parser finds answers where none "
                "is given, and RL would learn to be paid for them"
            )
    # A constant letter is right as often as the letter is: by permutation a fifth, give or take five deviations.
    allowed = 0.2 + 5 * (0.2 * 0.8 / len(shown)) ** 0.5
    for letter in LETTERS:
        share = paid(lambda q, letter=letter: f"{MARKER}{letter}")
        if len(shown) >= 100 and share > allowed:
            raise StageError(
                f"always answering {letter} earns {share:.1%} of {len(shown)} questions, where a fifth is chance: the "
                "options of these questions are not permuted, or one letter is right far too often"
            )


def _wrong(q: Question) -> str:
    return LETTERS[(q.gold + 1) % len(LETTERS)]


_WORTHLESS: tuple[tuple[str, Callable[[Question], str], bool], ...] = (
    ("the prompts alone", prompt, True),
    ("the rationales without an answer", lambda q: q.rationale.replace(MARKER, ""), True),
    ("the bare right letters", lambda q: q.correct, True),
    ("wrong answers", lambda q: f"{MARKER}{_wrong(q)}", True),
    ("the right answers cut off before the stop token", lambda q: f"{MARKER}{q.correct}", False),
    ("the right answers in lower case", lambda q: f"{MARKER}{q.correct.lower()}", True),
    ("the right answers in small print", lambda q: f"{MARKER}{q.correct}".lower(), True),
    ("the right answers followed by wrong ones", lambda q: f"{MARKER}{q.correct}\n{MARKER}{_wrong(q)}", True),
    ("wrong answers followed by the right ones", lambda q: f"{MARKER}{_wrong(q)}\n{MARKER}{q.correct}", True),
    ("lists of all five answers", lambda q: "\n".join(f"{MARKER}{x}" for x in LETTERS), True),
    ("the right answers with text after them", lambda q: f"{MARKER}{q.correct} because", True),
    ("the right options' texts", lambda q: f"#### {q.options[q.gold]}", True),
)  # fmt: skip


def check_first_batch(figures: Mapping[str, float], config: RLConfig) -> None:
    """Raises `StageError` when the figures of the first batch are outside the bounds of `config`."""
    parsed, reward, silent = (figures[f"rl/{x}"] for x in ("parse_rate", "mean_reward", "zero_variance_groups"))
    cut_off = figures["rl/truncated_rate"]
    if parsed < config.min_parse_rate:
        raise StageError(
            f"only {parsed:.0%} of the first completions end in a well-formed answer (rl_checkpoint.min_parse_rate is "
            f"{config.min_parse_rate:.0%}): train SFT longer, or raise rl_checkpoint.max_new_tokens "
            f"({config.max_new_tokens}; {cut_off:.0%} cut off)"
        )
    if reward < config.min_first_reward:
        raise StageError(
            f"the first completions earned {reward:.3f} in the mean (rl_checkpoint.min_first_reward is "
            f"{config.min_first_reward}), although {parsed:.0%} of them answer in form: guessing earns 0.2, so either "
            "the answers are never the right letter (look at the SFT checkpoint's letter histogram) or the questions' "
            "correct letters are wrong"
        )
    if reward > config.max_first_reward:
        raise StageError(
            f"the first completions earned {reward:.3f} in the mean (rl_checkpoint.max_first_reward is "
            f"{config.max_first_reward}): there is nothing left to learn from these questions; take harder ones, or "
            "look whether the prompt gives the answer away"
        )
    if silent > config.max_zero_variance:
        raise StageError(
            f"in {silent:.0%} of the first groups all completions earned the same (rl_checkpoint.max_zero_variance is "
            f"{config.max_zero_variance:.0%}), so there is no gradient: raise rl_checkpoint.group_size "
            f"({config.group_size}) or temperature ({config.temperature}), or take questions nearer to the policy's "
            "level"
        )
