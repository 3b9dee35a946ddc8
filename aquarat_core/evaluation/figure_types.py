"""The figures of an evaluation as `report.json` holds them; `figures.py` computes them."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from aquarat_core.config.protocols import RecordedProtocol
from aquarat_core.evaluation.records import HarnessFacts
from aquarat_core.evaluation.summary import Baseline, LetterRow, Verdict


class Rate(TypedDict):
    """A share in [0, 1] with its 95 % interval."""

    value: float
    lo: float
    hi: float


class Guessed(Rate):
    """A rate over several samples, and the rate of guessing."""

    guess: float


class ReliabilityBin(TypedDict):
    """Questions of similar confidence."""

    n: int
    confidence: float
    accuracy: float
    lo: float
    hi: float


class Calibration(TypedDict):
    """Whether the probabilities of choices, renormalized over the choices, mean what they say."""

    brier: float
    log_loss: float
    """Nats; ln L for equal probabilities of L choices."""
    ece: float
    ece_if_calibrated: float
    """The mean calibration error for this number of questions if every probability were right."""
    ece_if_calibrated_95: float
    """The 95 % quantile of the same. Only an error above it shows a lack of calibration."""
    confidence: float
    reliability: list[ReliabilityBin]


class Place(TypedDict):
    """Answers to questions whose right option stands in one place (0 is the first)."""

    place: int
    n: int
    accuracy: float
    lo: float
    hi: float


class Bias(TypedDict):
    """How evenly the places were answered over all rotations, and how evenly rightly."""

    counts: list[int]
    chi2: float
    p: float
    """p-value of a permutation test that moves the counts of whole questions; not that of the chi-square."""
    cramers_v: float
    cochran_q: float
    """Cochran's Q: whether accuracy depends on the place of the right option."""
    cochran_p: float


class Rotation(TypedDict):
    """The effect of the order of the options."""

    rotated: int
    """Questions that were asked under all cyclic orders."""
    kept: int
    """Questions whose options refer to each other: asked once, and counted once."""
    by_place: list[Place]
    consistency: Rate | None
    """Share of the rotated questions that were answered with the same option under all orders."""
    agreement: float | None
    """Share of the pairs of orders of a question that agree."""
    bias: dict[str, Bias]
    """Keyed by the number of options."""
    as_given: Rate
    """Accuracy under the first order alone."""
    difference: Rate
    """Mean accuracy over the orders less that of the first; resampled by question."""
    difference_p: float
    difference_verdict: Verdict
    """Whether the mean over all orders is above or below the first order; test and interval must agree."""


class Accuracy(TypedDict):
    """The figures that every protocol has."""

    correct: float
    """Number of questions answered correctly; the sum of the questions' means if they have several answers."""
    accuracy: float
    lo: float
    hi: float


class Figures(Accuracy, total=False):
    """The figures of an evaluation; which ones depends on the protocol."""

    p_above_chance: float | None
    """Single answers: exact binomial p-value of the hypothesis that the model guesses."""
    p_against_constant: float
    """Single answers: exact McNemar p against the best constant answer."""
    against_constant: Verdict
    letters: dict[str, LetterRow]
    letter_entropy_bits: float
    mean_tokens: float
    se: float
    """Several answers to a question: standard error, clustered by question."""
    samples: int
    pass_at: dict[str, Guessed]
    """Keyed by k; unbiased estimates."""
    majority_at: dict[str, Guessed]
    margin: float
    """Mean difference of the highest and the second highest score, in nats."""
    gold_margin: float
    """Mean difference of the right choice's score and the highest other one's, in nats."""
    letter_mass: float
    """Mean probability that the next token is one of the letters."""
    calibration: Calibration
    rotation: Rotation
    harness: HarnessFacts


class Baselines(TypedDict):
    """Accuracies on the same questions of strategies that do not read them."""

    chance: float
    constant: Baseline
    """Always the same answer: the best one for these questions."""
    majority: Baseline | None
    """Always the commonest answer of the training split; None without a training split."""
    longest: float | None
    """Always the longest option; options of equal length share the question. None without options."""


class Rates(TypedDict):
    """Shares of all answers."""

    parsed: float
    truncated: float
    ambiguous: float
    """Completions that contain more than one answer."""
    too_long: float
    """Questions that were not asked because they do not fit into the context."""


class Interval(TypedDict):
    """A 95 % interval of a share."""

    lo: float
    hi: float


class RateIntervals(TypedDict):
    """Intervals of the rates, clustered by question where a question has several answers."""

    parsed: Interval
    truncated: Interval
    ambiguous: Interval
    too_long: Interval


class Hashes(TypedDict):
    """Hashes that are equal if two evaluations can be compared."""

    questions_sha256: str
    """Hash of the ids, the prompts with the order of their options, and the right answers."""
    prompts_sha256: str
    """Hash of everything the model was shown, including cues."""
    grader: str
    data_asset: str
    data_version: str


class Evaluation(TypedDict):
    """One task under one protocol."""

    name: str
    task: str
    protocol: RecordedProtocol
    split: str
    questions: str
    settings: dict[str, Any]
    n: int
    """Number of questions."""
    answers: int
    """Number of rows: questions times samples or rotations."""
    figures: Figures
    baselines: Baselines
    rates: Rates
    rate_intervals: NotRequired[RateIntervals]
    """Older reports have none."""
    hashes: Hashes
    stop_reasons: dict[str, int]
