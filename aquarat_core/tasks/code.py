"""Tasks whose answer is a program that is graded by running tests ("code with tests").

The program is the first fenced block of a completion, or the whole completion if it has none, and its tests run in a
sandbox (docs/sandbox.md). Nothing of it is parsed or run in this process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from aquarat_core.sandbox.checks import Checks, Verdict, run_checks
from aquarat_core.sandbox.limits import Limits, Wanted
from aquarat_core.sandbox.run import DEFAULT_LIMITS, choose, in_parallel
from aquarat_core.tasks.example_files import StoredTask
from aquarat_core.tasks.task import Attempt, Example, Grade

Form = Literal["function", "continuation"]
"""What a completion contains: the whole function, as chat models write it, or a continuation of the prompt."""
_BLOCK = re.compile(r"```([^`\n]*)\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_PYTHON = ("", "py", "python", "python3")
_IMPORT = re.compile(r"^(?:import|from)[ \t](?:[^\n(\\]|\\\n)*(?:\([^)]*\))?[^\n]*", re.MULTILINE)
_AFTER_THE_FUNCTION = re.compile(r"\n(?=class|def|#|if|print)")
"""A continuation is cut off at these stop sequences, from Chen et al. 2021, section 3."""


class CodeProblem(TypedDict):
    """The `answer` of an example: the data that a program is graded with."""

    prompt: str
    """The start of the program, which is valid Python: imports, helpers, the function's head and docstring."""
    entry_point: str
    """The name of the function."""
    test: str
    """Python that defines `check(candidate)`, which raises if a test fails."""


def extract_code(completion: str) -> str:
    """The content of the first fenced block that is marked as Python or unmarked; the whole text if there is none."""
    blocks = (block[2] for block in _BLOCK.finditer(completion) if block[1].strip().lower() in _PYTHON)
    return next(blocks, completion).strip("\n")


def import_lines(prompt: str) -> str:
    """All imports at the prompt's top level, including those that span several lines."""
    return "\n".join(_IMPORT.findall(prompt))


def program_of(problem: CodeProblem, completion: str, form: Form = "function") -> str:
    """The program for a completion: the prompt's imports and its code, or the prompt and its continuation."""
    if form == "continuation":
        return problem["prompt"] + _AFTER_THE_FUNCTION.split(completion, maxsplit=1)[0] + "\n"
    return f"{import_lines(problem['prompt'])}\n{extract_code(completion)}\n"


def checks_of(problem: CodeProblem) -> Checks:
    """The tests of a problem; the prompt is their context, because some tests call its helpers."""
    name = problem["entry_point"]
    return Checks((name,), f"{problem['test']}\n\ncheck({name})\n", problem["prompt"])


class CodeTask(StoredTask[CodeProblem]):
    """The answer is a program that must pass the tests of its problem."""

    answer_form = "one block of Python with the requested function"
    grading_module = "aquarat_core.tasks.code"
    notes = ("stopped",)

    def __init__(self, form: Form = "function", sandbox: Wanted = "auto", limits: Limits = DEFAULT_LIMITS) -> None:
        self.form: Form = form
        self.sandbox: Wanted = sandbox
        self.limits = limits

    def check_ready(self) -> None:
        """Raises `UsageError` if no sandbox works here."""
        choose(self.sandbox)

    def grade(self, example: Example[CodeProblem], completion: str, ended: bool) -> Grade:
        """1 for a program that passes all tests, otherwise 0; `stopped` is 1 if it had to be killed.

        Raises `UsageError` if no sandbox works here.
        """
        if self.form == "continuation" and _AFTER_THE_FUNCTION.search(completion):
            ended = True  # Whatever was cut off comes after the function.
        code = extract_code(completion) if self.form == "function" else completion
        if not ended or not code.strip():
            return Grade(0.0, False, None, {"stopped": 0.0})
        program = program_of(example.answer, completion, self.form)
        verdict = run_checks(program, checks_of(example.answer), self.limits, self.sandbox)
        return Grade(float(verdict.passed), verdict.passed, code, {"stopped": float(_was_stopped(verdict))})

    def grade_many(self, attempts: Sequence[tuple[Example[CodeProblem], str, bool]]) -> list[Grade]:
        """Runs several sandboxes at a time."""
        return in_parallel(lambda attempt: self.grade(*attempt), attempts)

    def answer_text(self, answer: str) -> str:
        return f"```python\n{answer}\n```" if self.form == "function" else answer

    def worthless(self, example: Example[CodeProblem]) -> Mapping[str, Attempt]:
        name = example.answer["entry_point"]
        stub = f"def {name}(*args, **kwargs):"
        programs = {
            "empty functions": f"{stub}\n    pass",
            "functions of another name": f"def not_{name}(*args):\n    return 1",
            "programs that end with exit code 0": "import sys\nsys.exit(0)",
            "programs that end at once with exit code 0": "import os\nos._exit(0)",
            "functions that end with exit code 0": f"import os\n{stub}\n    os._exit(0)",
            "programs that print that they passed": _PRINTS_A_NONCE.format(stub=stub),
            "results that equal everything": _EQUALS_EVERYTHING.format(stub=stub),
            "programs that replace the tests": _REPLACES_THE_TESTS.format(stub=stub),
        }
        written = {what: Attempt(self.answer_text(program)) for what, program in programs.items()}
        target = example.target or self.answer_text(example.reference)
        return written | {
            "the prompts alone": Attempt(self.answer_text(example.answer["prompt"])),
            "the solutions cut off before the stop token": Attempt(target, ended=False),
            "empty functions followed by the solutions": Attempt(f"{written['empty functions'].text}\n{target}"),
            "texts without code": Attempt("The function is easy to write."),
        }


def _was_stopped(verdict: Verdict) -> bool:
    """Whether it was stopped by a limit of the run or by a signal, which is how a process time limit ends it."""
    outcome = verdict.outcome
    return outcome is not None and (outcome.stopped is not None or outcome.status >= 128)


_PRINTS_A_NONCE = """\
import os
for file in range(20):
    try:
        os.write(file, b"0" * 32)
    except OSError:
        pass
{stub}
    print("0" * 32)
    os._exit(0)
"""
_EQUALS_EVERYTHING = """\
class Anything:
    def __eq__(self, other):
        return True
    __ne__ = __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True
    __sub__ = __rsub__ = __abs__ = __getitem__ = __call__ = lambda self, *args: self
    def __hash__(self):
        return 0
    def __len__(self):
        return 1
{stub}
    return Anything()
"""
_REPLACES_THE_TESTS = """\
import builtins, gc, sys
def check(candidate):
    return None
def no_error(*args):
    return None
{stub}
    frame = sys._getframe()
    while frame:
        frame.f_globals["check"] = frame.f_locals["check"] = check
        frame = frame.f_back
    for space in gc.get_objects():
        if isinstance(space, dict) and "check" in space:
            space["check"] = check
    builtins.abs = builtins.all = no_error
    builtins.AssertionError = builtins.Exception
    return None
"""
