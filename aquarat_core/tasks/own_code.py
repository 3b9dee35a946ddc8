"""A task in a user's own Python file: executed from its text, with every call checked.

The text comes from the config that the control host wrote, never from a bucket. If the code does something wrong, an
error names the task, the example and the line of the file before it can spoil a run.
"""

from __future__ import annotations

import copy
import hashlib
import linecache
import math
import sys
import traceback
from collections.abc import Mapping
from string import ascii_uppercase
from types import ModuleType
from typing import Any, cast, get_args

from aquarat_core.config import TaskDefinition
from aquarat_core.config.protocols import OF_CHOICES, EvalProtocol
from aquarat_core.errors import UserError
from aquarat_core.tasks.defined import Facts
from aquarat_core.tasks.example_files import StoredTask, stored_fault
from aquarat_core.tasks.source import Row
from aquarat_core.tasks.task import Attempt, Example, Grade, Task

MAX_REWARD = 1.0
ASKED_TWICE = 100
"""This many grades are computed twice: resumed training must get the same rewards as before."""
NEEDED = ("example", "grade", "answer_text", "worthless")


class TaskCodeError(UserError):
    """A task module that cannot be used; the message says what is wrong with it and where."""


def own_task(name: str, definition: TaskDefinition, facts: Facts) -> OwnTask:
    """The task that a module defines. Raises `TaskCodeError`."""
    del facts
    file, code = str(definition.module), definition.code
    return OwnTask(name, file, None) if code is None else OwnTask(name, file, _made(name, file, code), code)


class OwnTask(StoredTask[Any]):
    """The task that a module defines, under its name in the profile, with every result checked.

    Without its code (`inner` is None), it can only read the examples that `chat_datasets` stored.
    """

    def __init__(self, name: str, file: str, inner: Task[Any] | None, code: str = "") -> None:
        self.name, self._file, self._inner, self._code = name, file, inner, code
        self.grading_module = file
        form: object = getattr(inner, "answer_form", "an answer")
        if not isinstance(form, str):
            raise self._wrong("answer_form", f"is {_shown(form)} but should be a text")
        self.answer_form = form
        self.categories, self.notes = self._names("categories"), self._names("notes")
        self.protocols = self._protocols()
        self._twice = ASKED_TWICE

    def check_ready(self) -> None:
        if self._inner is not None:
            self._call("check_ready")

    def grading_source(self) -> str:
        return self._code

    def example(self, row: Row, name: str) -> Example[Any]:
        """Converts a row to an example whose answer is a JSON value. Passes on `DataError`s of the module, which are
        about the row."""
        found = self._call("example", row, name)
        if not isinstance(found, Example):
            raise self._wrong("example", f"returned {_shown(found)} for row {name} but should return an Example")
        made = cast("Example[Any]", found)
        if fault := stored_fault(made) or self._reference_fault(made):
            raise self._wrong("example", f"gave {name} {fault}")
        return made

    def grade(self, example: Example[Any], completion: str, ended: bool) -> Grade:
        grade = self._graded(example, completion, ended)
        if self._twice:
            self._twice -= 1
            if (again := self._graded(example, completion, ended)) != grade:
                raise self._wrong(
                    "grade", f"gave {example.id} {_shown(grade)} and then {_shown(again)} for the same completion"
                )
        return grade

    def _graded(self, example: Example[Any], completion: str, ended: bool) -> Grade:
        found = self._call("grade", example, completion, ended)
        if isinstance(found, bool) or not isinstance(found, (int, float, Grade)):
            raise self._wrong(
                "grade", f"returned {_shown(found)} for {example.id} but should return a Grade or a number"
            )
        grade = found if isinstance(found, Grade) else Grade(float(found), bool(found >= MAX_REWARD), None)
        reward: Any = grade.reward
        if isinstance(reward, bool) or not isinstance(reward, (int, float)) or not math.isfinite(reward):
            raise self._wrong("grade", f"gave {example.id} the reward {_shown(reward)}, which is not a finite number")
        if abs(reward) > MAX_REWARD:
            raise self._wrong("grade", f"gave {example.id} the reward {reward}: rewards must be from -1 to 1")
        if fault := self._grade_fault(grade):
            raise self._wrong("grade", f"gave {example.id} {fault}")
        return grade

    def _grade_fault(self, grade: Grade) -> str | None:
        """What is wrong with a grade other than its reward."""
        correct, answer, notes = cast("tuple[object, ...]", (grade.correct, grade.answer, grade.notes))
        if not isinstance(correct, bool):
            return f"{_shown(correct)} as correct but should give True or False"
        if answer is not None and not isinstance(answer, str):
            return "an answer that is not a text"
        if not isinstance(notes, Mapping):
            return f"{_shown(notes)} as notes but should give numbers by name"
        given = cast("Mapping[str, object]", notes)
        if unknown := sorted(map(str, set(given) - set(self.notes))):
            return f"notes {', '.join(unknown)} that `notes` does not name"
        wrong = next((n for n, value in given.items() if not _is_finite(value)), None)
        return None if wrong is None else f"the note {wrong} {_shown(given[wrong])}, which is not a finite number"

    def answer_text(self, answer: str) -> str:
        return self._text("answer_text", answer)

    def worthless(self, example: Example[Any]) -> Mapping[str, Attempt]:
        found = self._call("worthless", example)
        if not isinstance(found, Mapping) or not all(
            isinstance(key, str) and isinstance(value, (str, Attempt))
            for key, value in cast("Mapping[object, object]", found).items()
        ):
            raise self._wrong(
                "worthless", f"returned {_shown(cast(object, found))} but should return texts or Attempts by name"
            )
        attempts = cast("Mapping[str, str | Attempt]", found)
        return {key: value if isinstance(value, Attempt) else Attempt(value) for key, value in attempts.items()}

    def shown(self, example: Example[Any], seed: int) -> Example[Any]:
        return self._example("shown", example, seed)

    def rotated(self, example: Example[Any], shift: int) -> Example[Any]:
        return self._example("rotated", example, shift)

    def _example(self, method: str, example: Example[Any], number: int) -> Example[Any]:
        found = self._call(method, example, number)
        if not isinstance(found, Example):
            raise self._wrong(method, f"returned {_shown(found)} for {example.id} but should return an Example")
        made = cast("Example[Any]", found)
        if fault := stored_fault(made) or self._reference_fault(made):
            raise self._wrong(method, f"gave {example.id} {fault}")
        return made

    def is_permutable(self, example: Example[Any]) -> bool:
        return bool(self._call("is_permutable", example))

    def chance(self, example: Example[Any]) -> float:
        found = self._call("chance", example)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < 1:
            wrong = f"returned {_shown(found)} for {example.id} but should be at least 0 and below 1"
            raise self._wrong("chance", wrong)
        return float(found)

    def _text(self, method: str, *arguments: Any) -> str:
        found = self._call(method, *arguments)
        if not isinstance(found, str):
            raise self._wrong(method, f"returned {_shown(found)} but should return a text")
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        assert self._inner is not None, f"{self.name} was loaded without its code, only to read examples"
        # Copies, so that what the code changes in an example is not there the next time.
        given: list[Any] = [copy.deepcopy(a) for a in arguments]
        try:
            return getattr(self._inner, method)(*given)
        except UserError:
            raise
        except (Exception, SystemExit) as e:
            which = next((f" for {a.id}" for a in arguments if isinstance(a, Example)), "")
            raise self._wrong(method, f"failed{which}: {_place(e, self._file)}") from e

    def _names(self, attribute: str) -> tuple[str, ...]:
        """The texts in an attribute of the class."""
        found: object = getattr(self._inner, attribute, ())
        names = tuple(cast("list[object]", found)) if isinstance(found, (list, tuple)) else (None,)
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
            raise self._wrong(attribute, f"is {_shown(cast('object', found))} but should be a tuple of different texts")
        return cast("tuple[str, ...]", names)

    def _protocols(self) -> tuple[EvalProtocol, ...]:
        known = get_args(EvalProtocol)
        named = self._names("protocols") if self._inner is not None else ()
        if unknown := [name for name in named if name not in known]:
            raise self._wrong("protocols", f"names {_shown(unknown[0])}; there are {', '.join(known)}")
        by_letter = sorted(OF_CHOICES.intersection(named))
        if by_letter and self.categories != tuple(ascii_uppercase[: len(self.categories) or 1]):
            raise self._wrong("protocols", f"names {by_letter[0]!r}, for which `categories` must be A, B, C and so on")
        default: object = vars(Task)["rotated"]
        if "rotated" in named and getattr(type(self._inner), "rotated", None) is default:
            raise self._wrong("protocols", "names 'rotated', and the class does not define it")
        return cast("tuple[EvalProtocol, ...]", named)

    def _reference_fault(self, example: Example[Any]) -> str | None:
        if not self.categories or example.reference in self.categories:
            return None
        return f"the reference {_shown(example.reference)}, which `categories` does not name"

    def _wrong(self, method: str, what: str) -> TaskCodeError:
        return TaskCodeError(f"task {self.name}, {self._file}: {method} {what}")


def _made(name: str, file: str, code: str) -> Task[Any]:
    """An instance, made without arguments, of the one `Task` class in the module."""
    digest = hashlib.sha256(code.encode()).hexdigest()
    path = f"<{file} {digest[:12]}>"
    module = ModuleType(f"aquarat_own_{name}_{digest[:12]}")
    # Lets tracebacks show the lines, and dataclasses and the like find their module.
    linecache.cache[path] = (len(code), None, code.splitlines(keepends=True), path)
    sys.modules[module.__name__] = module
    where = f"task {name}, {file}"
    try:
        # This is the user's own code, which the profile asks for.
        exec(compile(code, path, "exec", dont_inherit=True), module.__dict__)
    except ImportError as e:
        raise TaskCodeError(
            f"{where} does not import: {_place(e, path)}. A task's module must be one file; it may import installed "
            "packages"
        ) from e
    except (Exception, SystemExit) as e:
        raise TaskCodeError(f"{where} does not import: {_place(e, path)}") from e
    made_here = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    found = [cls for cls in made_here if Task in cls.__mro__]
    if len(found) != 1:
        named = f" ({', '.join(c.__name__ for c in found)})" if found else ""
        raise TaskCodeError(f"{where} defines {len(found)} classes that inherit from Task{named} but must define one")
    cls: type[Any] = found[0]
    if missing := [m for m in NEEDED if getattr(cls, m, None) in (None, getattr(Task, m, None))]:
        raise TaskCodeError(f"{where}: class {cls.__name__} lacks {' and '.join(missing)} (docs/new_dataset.md)")
    try:
        return cls()
    except (Exception, SystemExit) as e:
        raise TaskCodeError(f"{where}: {cls.__name__}() failed: {_place(e, path)}") from e


def _place(error: BaseException, path: str) -> str:
    """The error, with the line of the user's file that raised it."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith((path, f"<{path} "))]
    at = f"line {lines[-1]}: " if lines else ""
    return f"{at}{type(error).__name__}: {error}"


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
