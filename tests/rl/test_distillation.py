"""Self-distillation: divergences and gradients by hand, what the teacher sees, and steps recomputed from samples."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from aquarat_core.config import RLConfig
from aquarat_core.errors import StageError
from aquarat_core.rl.demonstration import CUT, LEAD, has_solution, taught, teacher_prompt
from aquarat_core.rl.objective.distillation import classes, distillation_loss, divergence, targets
from aquarat_core.rl.preflight import check_first_batch
from aquarat_core.rl.rollouts import samples
from aquarat_core.rl.scoring import collate, completion_distribution
from aquarat_core.rl.task_mixture import TaskMixture
from aquarat_core.rl.trainer import Trainer
from aquarat_core.tasks.aqua.equations import with_calls
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.tasks.task import Grade
from aquarat_core.text.chat import render_prompt
from tests.factories import AQUA, CPU, ONE, calling_model, examples, questions, random_model, tokenizer

LN2 = math.log(2)
POLICY, TEACHER = [0.5, 0.25, 0.125, 0.125], [0.125, 0.5, 0.25, 0.125]


def logs(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor([[probabilities]], dtype=torch.float64).log()


# --- the loss -------------------------------------------------------------------------------------------------------


def test_the_divergences_by_hand() -> None:
    # In units of ln 2 the logs are -1 -2 -3 -3 and -3 -1 -2 -3.
    whole = targets(logs(TEACHER), None)
    assert float(divergence(logs(POLICY), whole, "reverse")) == pytest.approx(0.625 * LN2)
    assert float(divergence(logs(POLICY), whole, "forward")) == pytest.approx(0.5 * LN2)
    # The teacher's most likely token is the second; the classes have 1/4 and 3/4 of the policy, half each of it.
    one = targets(logs(TEACHER), 1)
    assert one.top_BNK.tolist() == [[[1]]] and one.logp.exp()[0, 0].tolist() == pytest.approx([0.5, 0.5])
    assert classes(logs(POLICY), one.top_BNK).exp()[0, 0].tolist() == pytest.approx([0.25, 0.75])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(divergence(logs(POLICY), one, "reverse")) == pytest.approx(expected)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(divergence(logs(POLICY), one, "forward")) == pytest.approx(expected)


def gradient(kind: Any, top_k: int | None, temperature: float) -> list[float]:
    logits = (logs(POLICY) * temperature + 3.0).requires_grad_()
    logp = torch.log_softmax(logits / temperature, dim=-1)
    divergence(logp, targets(logs(TEACHER), top_k), kind).sum().backward()
    return logits.grad[0, 0].tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_gradients_by_hand(temperature: float) -> None:
    found = gradient("forward", None, temperature)  # p - q
    assert found == pytest.approx([x / temperature for x in (0.375, -0.25, -0.125, 0.0)], abs=1e-12)
    found = gradient("reverse", None, temperature)  # p (log p/q - 0.625 ln 2), the logs being 2 -1 -1 0
    by_hand = [0.5 * 1.375, 0.25 * -1.625, 0.125 * -1.625, 0.125 * -0.625]
    assert found == pytest.approx([x * LN2 / temperature for x in by_hand])
    found = gradient("forward", 1, temperature)  # p (1 - Q/P): Q/P is 2 for the second token and 2/3 for the rest
    assert found == pytest.approx([x / temperature for x in (0.5 / 3, -0.25, 0.125 / 3, 0.125 / 3)])
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    rest, top = math.log(1.5) - kl, math.log(0.5) - kl
    found = gradient("reverse", 1, temperature)
    assert found == pytest.approx([x / temperature for x in (0.5 * rest, 0.25 * top, 0.125 * rest, 0.125 * rest)])


@pytest.mark.parametrize(("kind", "top_k"), itertools.product(("reverse", "forward"), (1, 3, 6, None)))
def test_gradients_are_finite_differences(kind: Any, top_k: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, theirs = (torch.randn(2, 3, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    mask, step = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64), 1e-5
    teacher = targets(torch.log_softmax(theirs, dim=-1), top_k)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return distillation_loss(divergence(torch.log_softmax(x / 0.8, dim=-1), teacher, kind), mask, 7.0)

    logits.requires_grad_()
    (found,) = torch.autograd.grad(loss(logits), logits)
    assert found.abs().max() > 1e-3 and not found[mask == 0].any()
    for place in itertools.product(range(2), range(3), range(6)):
        above, below = logits.detach().clone(), logits.detach().clone()
        above[place] += step
        below[place] -= step
        assert float(found[place]) == pytest.approx(float(loss(above) - loss(below)) / (2 * step), abs=2e-7), place


def test_fewer_classes_are_never_further_apart() -> None:
    generator = torch.Generator().manual_seed(2)
    ours, theirs = (torch.randn(4, 5, 50, dtype=torch.float64, generator=generator) for _ in range(2))
    ours, theirs = torch.log_softmax(ours, dim=-1), torch.log_softmax(theirs, dim=-1)
    for kind in ("reverse", "forward"):
        found = [divergence(ours, targets(theirs, k), kind) for k in (1, 5, 20, 49, 50, None)]
        assert (found[0] >= 0).all() and not divergence(theirs, targets(theirs, 5), kind).abs().max() > 1e-12
        assert all((less <= more + 1e-12).all() for less, more in itertools.pairwise(found))
        torch.testing.assert_close(found[-2], found[-1])  # as many classes as tokens


def test_a_rest_that_rounding_would_lose_counts() -> None:
    logits = torch.tensor([[[20.0, 0.0, 0.0, 0.0]]])
    logp = torch.log_softmax(logits, dim=-1)
    rest = classes(logp, torch.tensor([[[0]]]))[0, 0, 1]
    assert float(rest) == pytest.approx(math.log(3) - 20, abs=1e-5)  # 1 - p is 0 in float32
    flat = targets(torch.log_softmax(torch.zeros(1, 1, 4), dim=-1), 1)
    assert math.isfinite(float(divergence(logp, flat, "forward")))


# --- what the teacher sees ------------------------------------------------------------------------------------------

WORKED = to_example(
    Question(
        "w", "What is 2 + 3 + 4?", ("7", "8", "9", "10", "none of the above"),
        "First add 2 and 3, which makes 5.\nThen add 4 to that, which makes 9.", "C",
    )
)  # fmt: skip


def test_the_teacher_sees_the_question_and_its_solution() -> None:
    ids = teacher_prompt(tokenizer(), WORKED, 10_000)
    (question,) = WORKED.messages
    said = tokenizer().decode(ids)
    assert f"{question['content']}\n\n{LEAD}\n{WORKED.target}" in said
    ours = render_prompt(tokenizer(), WORKED.messages)
    assert ids[-2:] == ours[-2:], "both continue with the assistant's turn"


def test_the_teacher_sees_a_solution_without_its_calls() -> None:
    called = with_calls(replace(WORKED.answer, rationale="First 2 + 3 = 5.\nThen 5 + 4 = 9."))
    plain = to_example(replace(called, rationale="First 2 + 3 = 5.\nThen 5 + 4 = 9.", rationale_parts=()))
    example = to_example(called)
    assert "<|python_start|>" in example.target
    both = TaskMixture({"aqua": AQUA})
    for asked in (example, both.member("aqua", example)):
        assert teacher_prompt(tokenizer(), asked, 10_000) == teacher_prompt(tokenizer(), plain, 10_000)
    assert both.member("aqua", example).conversation() == example.conversation(), "its calls are still calls"


def test_a_long_solution_keeps_its_end() -> None:
    whole = teacher_prompt(tokenizer(), WORKED, 10_000)
    last_line = WORKED.target.rpartition("\n")[2]
    shortest = None
    for room in range(len(whole) - 1, 0, -1):
        try:
            ids = teacher_prompt(tokenizer(), WORKED, room)
        except StageError:
            break
        shortest = tokenizer().decode(ids)
        assert len(ids) <= room and f"{LEAD}\n{CUT}" in shortest and last_line in shortest
        kept = shortest.partition(CUT)[2]
        assert WORKED.target.endswith(kept.partition("<|")[0])
    assert shortest is not None and f"{CUT}{last_line}" in shortest, "all but the answer can be cut off"
    with pytest.raises(StageError, match=r"question w leaves no room for its answer .*lower rl_checkpoint.max_new"):
        teacher_prompt(tokenizer(), WORKED, room)
    with pytest.raises(StageError, match="question w has no worked solution"):
        teacher_prompt(tokenizer(), replace(WORKED, target=None), 10_000)


def test_a_solution_must_hold_in_every_order_of_the_options() -> None:
    q = replace(questions()[0], rationale="Add them.")
    assert has_solution(AQUA, to_example(q))
    by_letter = replace(q, rationale="Compare them. Option B is the only one that is even.")
    assert not has_solution(AQUA, to_example(by_letter))
    fixed = replace(by_letter, options=("1", "2", "3", "4", "none of the above"))
    assert has_solution(AQUA, to_example(fixed)), "its options keep their order"
    assert not has_solution(AQUA, to_example(replace(q, rationale="")))
    assert not has_solution(AQUA, replace(to_example(q), target=None))


def test_examples_that_cannot_be_taught_are_counted() -> None:
    q = WORKED.answer
    bare, long = replace(q, rationale=""), replace(q, question="What is 2 + 3 + 4? " * 20)
    room = len(teacher_prompt(tokenizer(), WORKED, 10_000)) + 8  # another order may be longer
    found = taught(AQUA, [WORKED, to_example(bare), to_example(long)], tokenizer(), room)
    assert (found.examples, found.unsolved, found.too_long, found.cut) == ([WORKED], 1, 1, 0)
    found = taught(AQUA, [WORKED], tokenizer(), room - 1)
    assert (found.examples, found.cut) == ([WORKED], 1)
    with pytest.raises(StageError, match="none of the 1 training questions of aqua has a worked solution"):
        taught(AQUA, [to_example(bare)], tokenizer(), room)


# --- steps ----------------------------------------------------------------------------------------------------------

CONFIG = RLConfig(
    steps=4, prompts_per_step=4, group_size=4, max_new_tokens=8, micro_batch_rows=5, temperature=0.8,
    optim={"lr_scale": 1.0, "grad_clip": None}, distillation={"teacher": "policy", "top_k": 7}, min_parse_rate=0.0,
)  # fmt: skip


def made(model: Any = None, **changes: Any) -> Trainer[Question]:
    """A run whose rewards are all 0: random text earns nothing."""
    config = RLConfig.model_validate(CONFIG.model_dump() | changes)
    model = model or random_model(tokenizer().vocab_size, sequence_len=384)
    return Trainer(model, tokenizer(), config, ONE, AQUA, examples()[:12], examples()[12:20])


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", ["reverse", "forward"])
def test_a_step_is_the_divergence_of_its_samples(kind: str) -> None:
    """Recomputed one sample at a time; nothing is earned, and everything is learned from."""
    run = made(distillation={"teacher": "policy", "top_k": 7, "divergence": kind})
    policy = copy.deepcopy(run.policy)
    frozen = copy.deepcopy(run.policy).requires_grad_(False)
    asked = [run.questions[i] for i in run.curriculum.draw(0, 4)]
    every = samples(run.sampler.collect(asked, 0), run.config)
    assert len(every) == 16 and all(s.advantage == 0 for s in every)
    n_tokens, loss, total = sum(len(s.completion) for s in every), 0.0, 0.0
    for s in every:
        alone, lesson = collate([s], CPU), collate([replace(s, prompt=s.teacher_prompt)], CPU)
        found = divergence(
            completion_distribution(policy, alone, 0.8),
            targets(completion_distribution(frozen, lesson, 0.8), 7),
            kind,
        )
        loss, total = loss + found.sum() / n_tokens, total + float(found.detach().sum())
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in policy.parameters() if p.numel()]).norm()
    figures, _ = run.step(0)
    assert figures["rl/mean_reward"] == 0.0 and figures["rl/silent"] == 0.0
    assert figures["rl/teacher_kl"] == pytest.approx(total / n_tokens, rel=1e-4) and total > 0.1
    assert figures["rl/grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert not torch.equal(flat(run.policy), flat(policy))


def test_tokens_of_a_tool_are_not_learned() -> None:
    run = made(calling_model(), calculator=True, max_new_tokens=24, distillation={"teacher": "policy", "top_k": None})
    before = copy.deepcopy(run.policy)
    asked = [run.questions[i] for i in run.curriculum.draw(0, 4)]
    every = samples(run.sampler.collect(asked, 0), run.config)
    assert sum(len(s.forced) for s in every) > 10
    total = 0.0
    for s in every:
        lesson = collate([replace(s, prompt=s.teacher_prompt)], CPU)
        with torch.no_grad():
            ours, theirs = (completion_distribution(before, b, 0.8) for b in (collate([s], CPU), lesson))
        found = divergence(ours, targets(theirs, None), "reverse")[0]
        total += sum(float(x) for i, x in enumerate(found) if i not in s.forced)
    n_tokens = sum(len(s.completion) - len(s.forced) for s in every)
    figures, _ = run.step(0)
    assert figures["rl/trained_tokens"] == n_tokens
    assert figures["rl/teacher_kl"] == pytest.approx(total / n_tokens, rel=1e-4)


def test_no_gradient_reaches_the_teacher() -> None:
    run = made(distillation={"teacher": "average", "average_decay": 0.75})
    teacher = run.optimizer.teacher
    run.step(0)
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    # The policy's own gradient is that with a frozen copy as the teacher: the first steps of both are the same.
    ours, copied = made(), made(distillation=CONFIG.distillation.model_dump() | {"teacher": "average"})
    ours.step(0), copied.step(0)
    assert torch.equal(flat(ours.policy), flat(copied.policy))


def test_an_average_follows_the_policy() -> None:
    run = made(distillation={"teacher": "average", "average_decay": 0.75})
    teacher, start = run.optimizer.teacher.model, flat(run.policy)
    assert torch.equal(flat(teacher), start)
    run.step(0)
    first = flat(run.policy)
    torch.testing.assert_close(flat(teacher), 0.75 * start + 0.25 * first)
    run.step(1)
    torch.testing.assert_close(flat(teacher), 0.75 * (0.75 * start + 0.25 * first) + 0.25 * flat(run.policy))
    kept = made(distillation={"teacher": "average", "average_decay": 0.75})
    kept.optimizer.teacher.load_state_dict(run.optimizer.teacher.state_dict())
    assert torch.equal(flat(kept.optimizer.teacher.model), flat(teacher))


def test_the_same_run_twice_is_the_same_bit_for_bit() -> None:
    runs = [made(distillation={"teacher": "average"}) for _ in range(2)]
    for run in runs:
        run.step(0), run.step(1)
    assert torch.equal(flat(runs[0].policy), flat(runs[1].policy))


def test_options_that_distillation_ignores_are_refused() -> None:
    on = {"distillation": {"teacher": "policy"}}
    for name, value in (
        ("objective", {"kl": "k3"}),
        ("reward", {"control": "random"}),
        ("dynamic_sampling_rounds", 2),
    ):
        with pytest.raises(ValidationError, match=rf"so {name} would have no effect"):
            RLConfig.model_validate(on | {name: value})
    assert RLConfig.model_validate(on).distills and not RLConfig().distills


def test_a_first_batch_without_rewards_can_be_taught() -> None:
    figures = {
        "rl/parse_rate": 0.9, "rl/mean_reward": 0.0, "rl/zero_variance_groups": 1.0, "rl/truncated_rate": 0.0
    }  # fmt: skip
    with pytest.raises(StageError, match="mean reward"):
        check_first_batch(figures, RLConfig())
    taught_config = RLConfig(distillation={"teacher": "policy"})
    check_first_batch(figures, taught_config)
    with pytest.raises(StageError, match="only 10%"):
        check_first_batch(figures | {"rl/parse_rate": 0.1}, taught_config)


def test_grades_are_still_measured() -> None:
    run = made()
    run.sampler.reward = lambda example, completion, ended: Grade(1.0, True, example.reference)
    assert run.step(0)[0]["rl/mean_reward"] == 1.0
