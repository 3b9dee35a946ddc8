"""A step's samples: the same however the questions are split, judged and counted right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from aquarat_core.config import RLConfig
from aquarat_core.evaluation.letters import answer_position, letter_ids
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.rollouts import Group, RolloutCollector, room_for_cue, samples
from aquarat_core.rl.scoring import Sample
from aquarat_core.rl.tally import all_reduce, count, summarize
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key
from aquarat_core.tasks.aqua.question import LETTERS, Question
from aquarat_core.tasks.aqua.synthetic import generate_questions
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.tasks.task import Example, Grade, Reward
from aquarat_core.text.chat import render_prompt, stop_tokens
from tests.factories import AQUA, ONE, examples, questions, random_model, tokenizer
from tests.rl.scripted import Scripted

CONFIG = RLConfig(group_size=4, max_new_tokens=12, temperature=1.0, seed=3)
FIXED = to_example(replace(questions()[0], options=("1", "2", "3", "4", "none of the above"), correct="B"))
Asked = Sequence[Example[Question]]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(tokenizer().vocab_size, sequence_len=256)


def collector(
    engine: Engine, config: RLConfig = CONFIG, reward: Reward[Question] | None = None
) -> RolloutCollector[Question]:
    return RolloutCollector(engine, tokenizer(), config, AQUA, reward)


def engine_of(model: Transformer) -> Engine:
    return Engine(model, stop_tokens(tokenizer()))


def scripted(texts: list[list[str]], asked: Asked, config: RLConfig = CONFIG, step: int = 0) -> list[Group[Question]]:
    return collector(Scripted(texts), config).collect(asked, step)


def test_a_split_over_ranks_changes_no_sample(model: Transformer) -> None:
    # Random text earns nothing: pay for its length, so that advantages are compared too.
    def paid(example: Example[Question], completion: str, ended: bool) -> Grade:
        return Grade(float(len(completion) % 2), False, None)

    asked = examples()[:6]
    whole = collector(engine_of(model), reward=paid).collect(asked, step=5)
    halves = [collector(engine_of(model), reward=paid).collect(asked[rank::2], step=5) for rank in range(2)]

    def shape(found: list[Sample]) -> list:
        return [(s.prompt, s.completion, s.advantage) for s in found]

    for rank, half in enumerate(halves):
        assert shape(samples(half, CONFIG)) == shape(samples(whole[rank::2], CONFIG))
    first, second = map(count, halves)
    assert {name: first.get(name, 0) + second.get(name, 0) for name in first | second} == count(whole)
    every = samples(whole, CONFIG)
    assert len({s.advantage for s in every}) > 2
    assert len({tuple(s.completion) for s in every}) == len(every)


def test_samples_depend_on_step_and_seed(model: Transformer) -> None:
    def completions(config: RLConfig, step: int) -> list[list[int]]:
        groups = collector(engine_of(model), config).collect(examples()[:2], step)
        return [c.tokens for group in groups for c in group.completions]

    first = completions(CONFIG, 5)
    assert first == completions(CONFIG, 5)
    assert first != completions(CONFIG, 6)
    assert first != completions(CONFIG.model_copy(update={"seed": 4}), 5)


def test_the_question_is_asked_with_its_options_in_the_steps_order() -> None:
    example = examples()[0]
    shown = [AQUA.shown(example, row_key(CONFIG.seed, "options", step)) for step in range(8)]
    assert len({s.choices for s in shown}) > 4
    for step, asked in enumerate(shown):
        (group,) = scripted([[f"Answer: {letter}" for letter in "ABCD"]], [example], step=step)
        assert group.example == asked and group.prompt == render_prompt(tokenizer(), asked.messages)
        assert group.rewards == [float(letter == asked.answer.correct) for letter in "ABCD"]
        advantages = [s.advantage for s in samples([group], CONFIG)]
        assert advantages == [r - sum(group.rewards) / 4 for r in group.rewards]


def test_a_tally_by_hand() -> None:
    texts = [
        ["Answer: B", "Answer: B", "Answer: A", "Answer: B~"],
        ["Answer: B"] * 4,
        ["Answer: C", "B", "Answer: B\nAnswer: B", "2"],
    ]
    groups = scripted(texts, [FIXED] * 3)
    assert [s.advantage for s in samples(groups, CONFIG)] == [0.5, 0.5, -0.5, -0.5, *[0.0] * 8]
    assert [group.has_signal for group in groups] == [True, False, False]
    lengths = [[len(tokenizer().encode(t.rstrip("~"))) + (not t.endswith("~")) for t in group] for group in texts]
    n_tokens, n_right = sum(map(sum, lengths)), sum(lengths[0][:2]) + sum(lengths[1])
    assert count(groups) == {
        "completions": 12, "tokens": n_tokens, "reward": 6.0, "reward_squared": 6.0, "right": 6,
        "tokens_right": n_right, "parsed": 8, "truncated": 1, "repeated": 5, "given": 0, "groups": 3,
        "solved_none": 1, "solved_some": 1, "solved_all": 1, "zero_variance": 2, "note/ambiguous": 1,
        "answer/A": 1, "answer/B": 6, "answer/C": 1,
    }  # fmt: skip
    assert summarize(all_reduce(count(groups), AQUA, ONE)) == pytest.approx(
        {
            "rl/acc": 0.5,
            "rl/mean_reward": 0.5,
            "rl/reward_std": 0.5,
            "rl/parse_rate": 8 / 12,
            "rl/ambiguous_rate": 1 / 12,
            "rl/truncated_rate": 1 / 12,
            "rl/stop_token_rate": 11 / 12,
            "rl/repeated_rate": 5 / 12,
            "rl/completion_length_mean": n_tokens / 12,
            "rl/given_tokens_mean": 0.0,
            "rl/length_right_mean": n_right / 6,
            "rl/length_wrong_mean": (n_tokens - n_right) / 6,
            "rl/solved_all": 1 / 3,
            "rl/solved_some": 1 / 3,
            "rl/solved_none": 1 / 3,
            "rl/zero_variance_groups": 2 / 3,
            "rl/letter_A": 1 / 8,
            "rl/letter_B": 6 / 8,
            "rl/letter_C": 1 / 8,
            "rl/letter_D": 0.0,
            "rl/letter_E": 0.0,
        }
    )


def test_a_constant_letter_earns_a_fifth_when_options_are_permuted() -> None:
    # Every right answer is B before the options are permuted: a constant B would earn everything.
    asked = [to_example(replace(q, correct="B")) for q in generate_questions(1000, seed=8)]
    earned = dict.fromkeys(LETTERS, 0.0)
    for step in range(4):
        for example in asked:
            shown = AQUA.shown(example, row_key(CONFIG.seed, "options", step))
            for letter in LETTERS:
                earned[letter] += AQUA.grade(shown, f"Answer: {letter}", True).reward
    assert sum(earned.values()) == 4000
    for letter in LETTERS:
        assert earned[letter] / 4000 == pytest.approx(0.2, abs=0.02), earned


def test_extras_of_the_reward() -> None:
    texts = [["Answer: B", "Answer: A", "B", "1 + 1 = 2\nAnswer: B"]]
    n = [len(tokenizer().encode(t)) + 1 for t in texts[0]]
    budget = max(n)
    config = CONFIG.model_copy(
        update={
            "max_new_tokens": budget,
            "reward": CONFIG.reward.model_copy(update={"format_bonus": 0.1, "overlong_tokens": budget}),
        }
    )
    (group,) = scripted(texts, [FIXED], config)
    base = [1.1, 0.1, 0.0, 1.1]
    assert group.rewards == pytest.approx([r - k / budget for r, k in zip(base, n, strict=True)])
    assert [grade.reward for grade in group.grades] == base


def test_advantages_in_units_of_the_groups_deviation() -> None:
    config = CONFIG.model_copy(update={"objective": CONFIG.objective.model_copy(update={"advantage": "group_std"})})
    groups = scripted([["Answer: B", "Answer: A", "Answer: C", "Answer: D"]], [FIXED])
    # Rewards 1, 0, 0, 0: mean 1/4, deviation 1/2.
    assert [s.advantage for s in samples(groups, config)] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


def test_the_probability_of_the_right_letter_after_its_own_rationale(model: Transformer) -> None:
    config = CONFIG.model_copy(
        update={"temperature": 0.7, "reward": CONFIG.reward.model_copy(update={"kind": "probability"})}
    )
    texts = ["1 + 1 = 2\nAnswer: A", "Answer: B", "Answer: B~", "B"]
    engine = Scripted([texts])
    engine.model = model
    (group,) = collector(engine, config).collect([FIXED], 0)
    ids = letter_ids(tokenizer(), AQUA)
    for text, reward in zip(texts[:2], group.rewards, strict=False):
        said = tokenizer().encode(text)
        assert said[-1] == ids[LETTERS.index(text[-1])]
        with torch.no_grad():
            logits = model(torch.tensor([[*group.prompt, *said[:-1]]]))[0, -1]
        assert reward == pytest.approx(float(torch.softmax(logits / 0.7, dim=0)[ids[1]]), rel=1e-4)
        assert 0 < reward < 1
    assert group.rewards[2:] == [0.0, 0.0]
    assert [grade.reward for grade in group.grades] == [0.0, 1.0, 0.0, 0.0]  # accuracy counts what was said


def test_the_probability_of_the_right_letter_after_a_forced_cue(model: Transformer) -> None:
    """Among the five letters, for every completion: in form, announcing two answers, without any, cut off."""
    reward = CONFIG.reward.model_copy(update={"kind": "forced_letter", "format_bonus": 0.1})
    config = CONFIG.model_copy(update={"temperature": 0.7, "reward": reward})
    texts = ["1 + 1 = 2\nAnswer: A", "Answer: A\nAnswer: B", "2", "Answer: B~"]
    engine = Scripted([texts])
    engine.model = model
    (group,) = collector(engine, config).collect([FIXED], 0)
    kept = ["1 + 1 = 2\nAnswer:", "Answer:", "2\nAnswer:", "Answer:"]
    for text, bonus, paid in zip(kept, (0.1, 0.0, 0.0, 0.0), group.rewards, strict=True):
        context = [*group.prompt, *tokenizer().encode(text)]
        with torch.no_grad():
            logits = model(torch.tensor([context]))[0, -1][letter_ids(tokenizer(), AQUA)]
        assert paid == pytest.approx(float(torch.softmax(logits / 0.7, dim=0)[1]) + bonus, rel=1e-4)
    assert group.rewards[1] == pytest.approx(group.rewards[3]), "the same solution, which is none"
    assert [grade.correct for grade in group.grades] == [False] * 4, "accuracy counts what was said"
    assert room_for_cue(config, tokenizer(), AQUA) >= len(tokenizer().encode("Answer:")) > 0
    assert room_for_cue(CONFIG, tokenizer(), AQUA) == 0


def test_the_beginning_of_a_document_ends_an_answer_like_the_end_of_a_turn() -> None:
    texts = ["1 + 1 = 2\nAnswer: B", "Answer: A", "Answer: B~", "B"]
    found = {}
    for name in ("<|assistant_end|>", "<|bos|>"):
        engine = Scripted([texts])
        engine.stop = tokenizer().special(name)
        (found[name],) = collector(engine).collect([FIXED], 0)
    turn, document = found.values()
    assert document.texts == turn.texts == [text.rstrip("~") for text in texts]
    assert document.grades == turn.grades and document.rewards == turn.rewards == [1.0, 0.0, 0.0, 0.0]
    assert [c.tokens[-1] == tokenizer().special("<|bos|>") for c in document.completions] == [True, True, False, True]
    assert [len(s.completion) for s in samples([document], CONFIG)] == [len(c.tokens) for c in turn.completions]


def test_letters_have_their_ids_by_place() -> None:
    ids = letter_ids(tokenizer(), AQUA)
    assert len(set(ids)) == 5
    for letter, letter_id in zip(LETTERS, ids, strict=True):
        said = tokenizer().encode(f"A is not E.\nAnswer: {letter}")
        assert answer_position([*said, 3], letter_id) == len(said) - 1
    assert answer_position([1, 2, 3], 4) is None


def test_groups_without_a_signal_are_replaced_a_bounded_number_of_times() -> None:
    same, differing = ["Answer: A"] * 4, ["Answer: A", "Answer: B", "Answer: C", "Answer: D"]
    for rounds, scripts, drawn in [
        (1, [[differing, same]], 2),
        (2, [[differing, same], [differing]], 3),
        (3, [[same, same], [same, differing], [same]], 5),
    ]:
        engine = Scripted([])
        config = CONFIG.model_copy(update={"dynamic_sampling_rounds": rounds})
        rollouts = collector(engine, config)
        first = scripted([same, differing, same], [FIXED] * 3)
        asked: list[tuple[int, int]] = []

        def replacement(round_: int, i: int, engine=engine, scripts=scripts, asked=asked) -> Example[Question]:
            engine.texts = scripts[round_]
            asked.append((round_, i))
            return replace(FIXED, id=f"{round_}-{i}")

        groups, n = rollouts.resample_zero_variance(first, 0, replacement)
        assert n == drawn == len(asked)
        assert groups[1] is first[1] and len(groups) == 3
        assert max(round_ for round_, _ in asked) == rounds - 1
        assert [i for r, i in asked if r == 0] == [0, 2]
    assert sum(group.has_signal for group in groups) == 2 and groups[0].example.id == "2-0"
