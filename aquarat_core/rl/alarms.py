"""Alarms during a run: a policy that collapses onto one answer, stops producing the answer format, or hacks the reward.

An alarm is logged once, when it starts, and counted in `rl/alarms` as long as it lasts. It stops nothing: a metric
outside its bound is a reason to investigate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_EXCESS = 0.25
"""How much larger than an even share the share of one answer may be. Only answers that are counted by name are
monitored: letters of choices, which are permuted."""
MAX_PARSE_DROP = 0.2
"""How far the parse rate may fall below its maximum so far."""
MAX_GENERALIZATION_GAP = 0.1
"""How much more the training reward may have risen since the start than the held-out accuracy."""
MAX_ZERO_VARIANCE_SHARE = 0.5
"""Maximum share of recent steps without any gradient."""
SMOOTHING = 0.8
"""Weight of the past in the running means, which are needed because one step has few answers."""


class Monitors:
    """Monitors the metrics of a run's steps.

    `categories` are the answers that each task counts by name. Its keys are suffixes of metric names, "" for a single
    task.
    """

    def __init__(self, categories: Mapping[str, Sequence[str]]) -> None:
        self._categories = {suffix: tuple(answers) for suffix, answers in categories.items() if answers}
        self._means: dict[str, float] = {}
        self._best_parse = 0.0
        self._first: tuple[float, float] | None = None
        self._gains = (0.0, 0.0)
        """Increase of training and held-out accuracy at the last evaluation."""
        self._active: set[str] = set()

    def watch(self, figures: Mapping[str, float]) -> tuple[int, list[str]]:
        """The number of active alarms after a step with these metrics, and a sentence for each that has just
        started."""
        letters = (f"rl/letter_{answer}{suffix}" for suffix, answers in self._categories.items() for answer in answers)
        watched = ("rl/parse_rate", "rl/acc", "rl/silent", *letters)
        for name in watched:
            if name in figures:
                self._means[name] = SMOOTHING * self._means.get(name, figures[name]) + (1 - SMOOTHING) * figures[name]
        self._best_parse = max(self._best_parse, self._means["rl/parse_rate"])
        if "eval/accuracy" in figures:
            now = (self._means["rl/acc"], figures["eval/accuracy"])
            self._first = self._first or now
            self._gains = (now[0] - self._first[0], now[1] - self._first[1])
        found = self._found()
        new = [text for name, text in found.items() if name not in self._active]
        self._active = set(found)
        return len(found), new

    def _found(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for suffix, answers in self._categories.items():
            if text := self._favored_answer(suffix, answers):
                found[f"letter{suffix}"] = text
        if (now := self._means["rl/parse_rate"]) < self._best_parse - MAX_PARSE_DROP:
            found["parse_rate"] = (
                f"alarm: {now:.0%} of the completions have the answer format, down from {self._best_parse:.0%}: the "
                "policy is losing the format; lower optim.lr_scale, or add a KL term (objective.kl)"
            )
        if (share := self._means.get("rl/silent", 0.0)) > MAX_ZERO_VARIANCE_SHARE:
            found["silent"] = (
                f"alarm: {share:.0%} of the last steps taught nothing, because all samples of each group had equal "
                "rewards: raise group_size, prompts_per_step or temperature, or choose questions that are neither too "
                "easy nor too hard (curriculum, dynamic_sampling_rounds)"
            )
        risen, held_out = self._gains
        if risen - held_out > MAX_GENERALIZATION_GAP:
            found["parting"] = (
                f"alarm: accuracy in training rose by {risen:+.3f}, held-out accuracy by {held_out:+.3f}: the policy "
                "is hacking the reward, or memorizing the training questions"
            )
        return found

    def _favored_answer(self, suffix: str, answers: Sequence[str]) -> str | None:
        answer = max(answers, key=lambda x: self._means[f"rl/letter_{x}{suffix}"])
        share, bound = self._means[f"rl/letter_{answer}{suffix}"], 1 / len(answers) + MAX_EXCESS
        if share <= bound:
            return None
        of = f" to {suffix.removeprefix('/')}" if suffix else ""
        return (
            f"alarm: {share:.0%} of the answers{of} are {answer} (bound {bound:.0%}): the policy is collapsing onto a "
            "letter; lower optim.lr_scale, or check that the options are permuted"
        )

    def state_dict(self) -> dict[str, Any]:
        """The state that later alarms depend on, as JSON values."""
        return {
            "means": dict(self._means),
            "best_parse": self._best_parse,
            "first": self._first and list(self._first),
            "parting": list(self._gains),
            "ringing": sorted(self._active),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Continue from the result of `state_dict`."""
        self._means, self._best_parse = dict(state_dict["means"]), state_dict["best_parse"]
        self._first = state_dict["first"] and tuple(state_dict["first"])
        self._gains = tuple(state_dict["parting"])
        self._active = set(state_dict["ringing"])
