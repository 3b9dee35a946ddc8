"""HumanEval as a task: how a completion is read, what earns nothing, and the published solutions, which all pass."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aquarat_core.errors import DataError, UsageError
from aquarat_core.rl.preflight import check_reward
from aquarat_core.sandbox import run
from aquarat_core.sandbox.limits import Limits
from aquarat_core.tasks.code import CodeProblem, extract_code, import_lines, program_of
from aquarat_core.tasks.example_files import write_examples
from aquarat_core.tasks.humaneval import HumanEvalTask, example_of
from aquarat_core.tasks.registry import load_task
from aquarat_core.tasks.task import Example
from tests.factories import tokenizer
from tests.patience import limit

PROMPT = (
    'from typing import List\n\ndef twice(x: List[int]) -> List[int]:\n    """Doubles.\n    >>> twice([1])\n    [2]\n'
    '    """\n'
)
SOLUTION = "    return [2 * y for y in x]\n"
ROW = {
    "prompt": PROMPT,
    "canonical_solution": SOLUTION,
    "entry_point": "twice",
    "test": "def check(candidate):\n    assert candidate([]) == []\n    assert candidate([1, 2]) == [2, 4]\n",
}
EXAMPLE = example_of(ROW, "test-000000")
TASK = HumanEvalTask()

needs_sandbox = pytest.mark.skipif(
    all(run.fault_of(name) for name in ("bubblewrap", "landlock")), reason="no sandbox works here"
)


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("Here it is:\n```\nx = 1\ny = 2\n```\nThat is all.\n```python\nz\n```", "x = 1\ny = 2"),
        ("```py\n    x = 1\n```", "    x = 1"),
        ("```Python\nx\n```", "x"),
        ("x = 1\n", "x = 1"),
        ("```python\nx = 1", "x = 1"),
        ("```bash\nls\n```\n```python\nx\n```", "x"),
        ("", ""),
    ],
)
def test_the_first_block_is_read(completion: str, code: str) -> None:
    assert extract_code(completion) == code


def test_all_imports_of_the_prompt_come_before_the_code() -> None:
    prompt = (
        "import math\nfrom typing import (\n    List,\n    Dict)\nfrom a import b, \\\n    c\n\ndef helper():\n"
        "    import os\n\nfrom x import y\ndef f():\n    '''from here on'''\n"
    )
    imports = "import math\nfrom typing import (\n    List,\n    Dict)\nfrom a import b, \\\n    c\nfrom x import y"
    assert import_lines(prompt) == imports
    problem: CodeProblem = {"prompt": prompt, "entry_point": "f", "test": ""}
    assert program_of(problem, "```\ndef f(): pass\n```") == f"{imports}\ndef f(): pass\n"


def test_a_continuation_ends_where_the_function_does() -> None:
    assert program_of(EXAMPLE.answer, f"{SOLUTION}\ndef more():", "continuation") == f"{PROMPT}{SOLUTION}\n"


@needs_sandbox
@pytest.mark.parametrize(
    ("completion", "ended", "reward"),
    [
        (EXAMPLE.target, True, 1.0),
        (EXAMPLE.target, False, 0.0),
        ("def twice(x): return x + x", True, 0.0),
        ("def twice(x: List[int]): return [y + y for y in x]", True, 1.0),
        ("", True, 0.0),
        (SOLUTION, True, 0.0),
    ],
)
def test_what_passes_the_tests_and_nothing_else_is_paid(completion: str, ended: bool, reward: float) -> None:
    grade = TASK.grade(EXAMPLE, completion, ended)
    assert (grade.reward, grade.correct, grade.notes) == (reward, reward == 1.0, {"stopped": 0.0})
    assert grade.answer == (extract_code(completion) if ended and completion else None)


@needs_sandbox
def test_a_continuation_is_graded_too_though_it_goes_on() -> None:
    task = HumanEvalTask("continuation")
    endless = f"{SOLUTION}\n\nprint(twice([1]))\nprint("
    assert task.grade(EXAMPLE, endless, False).correct
    assert not task.grade(EXAMPLE, SOLUTION, False).correct
    assert not task.grade(EXAMPLE, "    return x\n\nprint(1)", True).correct
    assert task.grade(EXAMPLE, SOLUTION, True).correct


@needs_sandbox
def test_a_program_that_is_stopped_is_noted() -> None:
    task = HumanEvalTask(limits=Limits(cpu_seconds=1, wall_seconds=limit(5)))
    assert task.grade(EXAMPLE, "import time\ntime.sleep(600)", True).notes == {"stopped": 1.0}
    assert task.grade(EXAMPLE, "def twice(x):\n  while True: pass", True).notes == {"stopped": 1.0}


@needs_sandbox
def test_worthless_completions_earn_nothing_and_a_target_earns_all() -> None:
    check_reward(TASK, [EXAMPLE], tokenizer())
    attempts = TASK.worthless(EXAMPLE)
    graded = TASK.grade_many([(EXAMPLE, a.text, a.ended) for a in attempts.values()])
    assert {what for what, g in zip(attempts, graded, strict=True) if g.reward} == set()
    answer = TASK.answer_text(EXAMPLE.reference)
    assert [g.correct for g in TASK.grade_many([(EXAMPLE, answer, True), (EXAMPLE, "x", True)])] == [True, False]


def test_no_sandbox_is_said_and_not_graded_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "fault_of", lambda name: "not here")
    with pytest.raises(UsageError, match="no sandbox for generated code works here"):
        TASK.grade(EXAMPLE, "x", True)


def test_examples_are_stored_and_read(tmp_path: Path) -> None:
    write_examples(tmp_path / "humaneval.test.parquet", [EXAMPLE])
    assert load_task("humaneval").examples(tmp_path.joinpath, "test") == [EXAMPLE]
    assert EXAMPLE.prompt.count("```") == 2 and EXAMPLE.reference == PROMPT + SOLUTION.rstrip()


@pytest.mark.parametrize("column", list(ROW))
def test_a_row_without_a_part_is_no_example(column: str) -> None:
    with pytest.raises(DataError, match=f"{column} is blank"):
        example_of(ROW | {column: " "}, "test-000000")


@pytest.fixture(scope="module")
def published(shared: Path) -> list[Example[CodeProblem]]:
    files = sorted((shared / "hub/openai/openai_humaneval").rglob("*.parquet"))
    if not files:
        pytest.skip("there is no copy of HumanEval beside the checkout")
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [example_of(row, f"test-{i:06d}") for i, row in enumerate(rows)]


@needs_sandbox
@pytest.mark.slow
def test_every_published_solution_passes_its_tests(published: list[Example[CodeProblem]]) -> None:
    graded = TASK.grade_many([(e, e.target or "", True) for e in published])
    assert [e.answer["entry_point"] for e, g in zip(published, graded, strict=True) if not g.correct] == []


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("what", list(TASK.worthless(EXAMPLE)))
def test_no_published_problem_pays_for_nothing(published: list[Example[CodeProblem]], what: str) -> None:
    attempts = [TASK.worthless(e)[what] for e in published[::5]]
    graded = TASK.grade_many([(e, a.text, a.ended) for e, a in zip(published[::5], attempts, strict=True)])
    assert [e.answer["entry_point"] for e, g in zip(published[::5], graded, strict=True) if g.reward] == []
