"""Checks before training: rewards that say nothing and first batches that teach nothing are refused with the reason."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aquarat_core.config import RLConfig
from aquarat_core.errors import StageError
from aquarat_core.rl.preflight import check_first_batch, check_reward
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.aqua.synthetic import generate_questions
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.tasks.task import Example, Grade
from tests.factories import AQUA, examples, tokenizer
from tests.rl.mutants import MUTANTS

QUESTIONS = generate_questions(300, seed=4, max_level=2)
ASKED = [to_example(q) for q in QUESTIONS]


def test_our_reward_passes() -> None:
    check_reward(AQUA, ASKED, tokenizer())
    check_reward(AQUA, examples()[:5], tokenizer())


@pytest.mark.parametrize("name", MUTANTS)
def test_a_reward_with_a_faulty_parser_is_never_trained_on(name: str) -> None:
    def faulty(example: Example[Question], completion: str, ended: bool) -> Grade:
        letter = MUTANTS[name](completion) if ended else None
        return Grade(float(letter == example.reference), letter == example.reference, letter)

    said = {
        "gsm8k": "pays 0.0% of 300 gold answers but must pay 99%",
        "first_match": "right answers followed by wrong ones but must pay none",
        "case_insensitive": "but must pay none: the parser finds answers where there are none",
    }
    with pytest.raises(StageError, match=said[name]):
        check_reward(AQUA, ASKED, tokenizer(), faulty)


def test_answers_without_the_stop_token_must_not_be_paid() -> None:
    with pytest.raises(StageError, match="right answers cut off before the stop token"):
        check_reward(AQUA, ASKED, tokenizer(), lambda example, text, ended: AQUA.grade(example, text, True))


def test_options_that_are_not_permuted_let_a_constant_letter_earn_too_much() -> None:
    fixed = [to_example(replace(q, options=(*q.options[:4], "none of the above"), correct="D")) for q in QUESTIONS]
    with pytest.raises(StageError, match=r"always answering D is right for 100.0% of 300 questions, but chance is 20%"):
        check_reward(AQUA, fixed, tokenizer())


def test_up_to_one_gold_answer_in_a_hundred_may_contradict_itself() -> None:
    twice = [to_example(replace(q, rationale="Answer: A")) for q in QUESTIONS[:4]]
    check_reward(AQUA, [*twice[:1], *ASKED[1:]], tokenizer())
    with pytest.raises(StageError, match=r"pays 98.7% of 300 gold answers"):
        check_reward(AQUA, [*twice, *ASKED[4:]], tokenizer())


def test_a_tokenizer_that_loses_text_is_found_out() -> None:
    class Lossy:
        encode = staticmethod(tokenizer().encode)

        @staticmethod
        def decode(ids) -> str:
            return tokenizer().decode(ids).replace("Answer: ", "Answer:")

    with pytest.raises(StageError, match="the tokenizer does not decode what it encoded"):
        check_reward(AQUA, ASKED, Lossy())


GOOD = {"rl/parse_rate": 0.9, "rl/mean_reward": 0.3, "rl/zero_variance_groups": 0.2, "rl/truncated_rate": 0.1}


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            {"rl/parse_rate": 0.4},
            r"only 40% of the first .*min_parse_rate is 50%.* train SFT longer.*\(64; 10% cut off",
        ),
        (
            {"rl/mean_reward": 0.01},
            r"mean reward of .* is 0.010 .*min_first_reward is 0.02.* 90% of them have the answer format.*histogram",
        ),
        ({"rl/mean_reward": 0.99}, r"mean reward of .* is 0.990 .*max_first_reward is 0.98.* nothing left to learn"),
        (
            {"rl/zero_variance_groups": 0.96},
            r"in 96% of the first groups .*max_zero_variance is 95%.*group_size \(16\)",
        ),
    ],
)
def test_a_first_batch_out_of_bounds_stops_the_stage(figures: dict[str, float], said: str) -> None:
    check_first_batch(GOOD, RLConfig())
    with pytest.raises(StageError, match=said):
        check_first_batch(GOOD | figures, RLConfig())


@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_fails_with_a_faulty_parser_in_place_of_ours(name: str, root: Path) -> None:
    """The parser is exchanged before anything imports it; then the tests of the reward run as they are."""
    script = (
        "import sys, pytest\n"
        "from aquarat_core.tasks import choice\n"
        "from tests.rl.mutants import MUTANTS\n"
        "if sys.argv[1] in MUTANTS: choice.parse_letter = MUTANTS[sys.argv[1]]\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'tests/rl/test_reward.py']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, name], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert " failed" in done.stdout.splitlines()[-1]


def test_the_suite_passes_with_ours(root: Path) -> None:
    ours = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/rl/test_reward.py"]
    assert subprocess.run(ours, cwd=root, capture_output=True).returncode == 0


def test_every_probe_of_the_reward_is_alone_enough() -> None:
    """A reward with one fault is refused for that fault, and not for another that comes with it."""

    def also(what: str):
        def paid(example: Example[Question], completion: str, ended: bool) -> Grade:
            grade = AQUA.grade(example, completion, ended)
            return Grade(1.0, True, example.reference) if completion == what else grade

        return paid

    q: Question = QUESTIONS[0]
    with pytest.raises(StageError, match="of the rationales without an answer"):
        check_reward(AQUA, [to_example(q)], tokenizer(), also(q.rationale))
    with pytest.raises(StageError, match="of the bare right letters"):
        fixed = to_example(replace(q, options=(*q.options[:4], "none of the above"), correct="B"))
        check_reward(AQUA, [fixed], tokenizer(), also("B"))
