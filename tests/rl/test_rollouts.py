"""A step's samples: the same however the questions are split, and counted right."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from aquarat_core.config import RLConfig
from aquarat_core.data.synthetic import generate_questions
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl import rollouts
from aquarat_core.rl.reward import Verdict, judge
from aquarat_core.rl.rollouts import Tally, sample_groups
from aquarat_core.rollout.engine import Completion, Engine
from aquarat_core.rollout.random import row_key
from aquarat_core.tasks.answers import LETTERS
from aquarat_core.tasks.aqua import permute, prompt
from aquarat_core.text.chat import render_prompt
from tests.toys import ONE, questions, random_model, tokenizer

CONFIG = RLConfig(group_size=4, max_new_tokens=12, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(tokenizer().vocab_size, sequence_len=256)


def engine(model: Transformer) -> Engine:
    return Engine(model, tokenizer().special("<|assistant_end|>"))


class Scripted(Engine):
    """An engine that says what it is told, one list of texts for each prompt; a text ending in ~ is cut off."""

    def __init__(self, texts: list[list[str]]) -> None:
        self.texts, self.stop = texts, tokenizer().special("<|assistant_end|>")

    def generate(self, prompts, keys, max_new_tokens, temperature, max_rows=1024) -> list[list[Completion]]:
        assert [len(k) for k in keys] == [len(t) for t in self.texts]
        return [[self._said(text) for text in texts] for texts in self.texts]

    def _said(self, text: str) -> Completion:
        tokens = tokenizer().encode(text.rstrip("~")) + ([] if text.endswith("~") else [self.stop])
        return Completion(tokens, [-1.0] * len(tokens), not text.endswith("~"))


def test_a_split_over_ranks_changes_no_sample(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    # Random text earns nothing: pay for its length, so that advantages are compared too.
    monkeypatch.setattr(rollouts, "judge", lambda text, ended, correct: Verdict(None, float(len(text) % 2)))
    asked = list(questions()[:6])
    whole, tally = sample_groups(engine(model), tokenizer(), asked, CONFIG, step=5)
    halves = [sample_groups(engine(model), tokenizer(), asked[rank::2], CONFIG, step=5) for rank in range(2)]
    by_question = [whole[4 * i : 4 * i + 4] for i in range(6)]
    for rank, (samples, _) in enumerate(halves):
        expected = [s for group in by_question[rank::2] for s in group]
        assert [(s.prompt, s.completion, s.advantage) for s in samples] == [
            (s.prompt, s.completion, s.advantage) for s in expected
        ]
    added = [a + b for a, b in zip(halves[0][1].numbers(), halves[1][1].numbers(), strict=True)]
    assert added == tally.numbers()
    assert len({s.advantage for s in whole}) > 2
    assert len({tuple(s.completion) for s in whole}) == len(whole)


def test_samples_depend_on_step_and_seed(model: Transformer) -> None:
    def completions(config: RLConfig, step: int) -> list[list[int]]:
        return [s.completion for s in sample_groups(engine(model), tokenizer(), questions()[:2], config, step)[0]]

    first = completions(CONFIG, 5)
    assert first == completions(CONFIG, 5)
    assert first != completions(CONFIG, 6)
    assert first != completions(CONFIG.model_copy(update={"seed": 4}), 5)


def test_the_question_is_asked_with_its_options_in_the_steps_order() -> None:
    q = questions()[0]
    shown = [permute(q, row_key(CONFIG.seed, "options", step)) for step in range(8)]
    assert len({s.options for s in shown}) > 4
    for step, asked in enumerate(shown):
        texts = [f"Answer: {letter}" for letter in "ABCD"]
        samples, tally = sample_groups(Scripted([texts]), tokenizer(), [q], CONFIG, step)
        assert samples[0].prompt == render_prompt(tokenizer(), [{"role": "user", "content": prompt(asked)}])
        rewards = [float(letter == asked.correct) for letter in "ABCD"]
        assert [s.advantage for s in samples] == [r - sum(rewards) / 4 for r in rewards]
        assert tally.reward == sum(rewards)


def test_a_tally_by_hand() -> None:
    asked = [replace(q, options=(*q.options[:4], "none of the above"), correct="B") for q in questions()[:3]]
    texts = [
        ["Answer: B", "Answer: B", "Answer: A", "Answer: B~"],
        ["Answer: B"] * 4,
        ["Answer: C", "B", "Answer: B\nAnswer: B", "2"],
    ]
    samples, tally = sample_groups(Scripted(texts), tokenizer(), asked, CONFIG, step=0)
    assert [s.advantage for s in samples] == [0.5, 0.5, -0.5, -0.5, *[0.0] * 8]
    n_tokens = sum(len(tokenizer().encode(t.rstrip("~"))) + (not t.endswith("~")) for group in texts for t in group)
    assert tally.numbers() == [12, n_tokens, 6.0, 6.0, 8, 1, 3, 1, 1, 1, 6, 1, 0, 0]
    assert Tally.metrics(tally.numbers()) == pytest.approx(
        {
            "rl/reward_mean": 0.5,
            "rl/reward_std": 0.5,
            "rl/parse_rate": 8 / 12,
            "rl/truncated_rate": 1 / 12,
            "rl/completion_length_mean": n_tokens / 12,
            "rl/solved_all": 1 / 3,
            "rl/solved_none": 1 / 3,
            "rl/letter_A": 1 / 8,
            "rl/letter_B": 6 / 8,
            "rl/letter_C": 1 / 8,
            "rl/letter_D": 0.0,
            "rl/letter_E": 0.0,
        }
    )


def test_a_constant_letter_earns_a_fifth_when_options_are_permuted() -> None:
    # Every right answer is B before the options are permuted: a constant B would earn everything.
    asked = [replace(q, correct="B") for q in generate_questions(1000, seed=8)]
    earned = dict.fromkeys(LETTERS, 0.0)
    for step in range(4):
        for q in asked:
            shown = permute(q, row_key(CONFIG.seed, "options", step))
            for letter in LETTERS:
                earned[letter] += judge(f"Answer: {letter}", True, shown.correct).reward
    assert sum(earned.values()) == 4000
    for letter in LETTERS:
        assert earned[letter] / 4000 == pytest.approx(0.2, abs=0.02), earned


def test_the_letters_of_a_wrong_group_are_still_counted() -> None:
    q = replace(questions()[0], options=("1", "2", "3", "4", "none of the above"), correct="E")
    _, tally = sample_groups(Scripted([["Answer: A", "Answer: D", "Answer: D", "x"]]), tokenizer(), [q], CONFIG, 0)
    assert Counter(dict(zip(LETTERS, tally.letters, strict=True))) == {"A": 1, "B": 0, "C": 0, "D": 2, "E": 0}
    assert (tally.all_wrong, tally.all_right, tally.parsed) == (1, 0, 3)
    assert ONE.sum(torch.tensor(tally.numbers())).tolist() == tally.numbers()
