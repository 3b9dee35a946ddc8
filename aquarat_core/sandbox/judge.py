"""Runs a program's functions against tests: the program in one process, the tests in another; runs inside the sandbox.

The program's process is forked before tests and nonce are read, and exchanges calls and results as plain data. So it
holds neither, and runs no code in the process that decides. Nothing that it does to itself, its exit or its output
changes the verdict.
"""

from __future__ import annotations

import builtins
import ctypes
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from aquarat_core.sandbox.wire import decode, encode, receive, send

_PR_SET_DUMPABLE = 4


class ProgramEnded(BaseException):
    """The program's process has ended and cannot be called. Not caught by `except Exception` in a test."""


class Program:
    """The program's process, as seen by the tests."""

    def __init__(self, child: int, calls: int, answers: int) -> None:
        self.child, self.calls, self.answers = child, calls, answers
        self.has_ended = False

    def function(self, name: str) -> Callable[..., Any]:
        """A callable for the program's function with that name. Raises the function's exception, or `ProgramEnded`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            request = {"name": name, "args": encode(list(args), strict=True), "kwargs": encode(kwargs, strict=True)}
            try:
                send(self.calls, request)
                answer = receive(self.answers)
            except (EOFError, BrokenPipeError):
                self.has_ended = True
                raise ProgramEnded from None
            if "raised" in answer:
                raise _exception(str(answer["raised"]), str(answer.get("message")))
            return decode(answer["value"])

        return call

    def exit_code(self) -> int:
        """Exit code of the ended process; 128 plus the signal's number if a signal ended it."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        return code if code >= 0 else 128 - code


def main() -> None:
    """Reads the program, then (nonce, context, names, tests), from standard input; prints the nonce if all pass."""
    # The program's process has the same user, so it must be kept from reading this one's memory or pipes under /proc.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0))
    source = receive(0)["program"]
    calls_out, calls = os.pipe()
    answers, answers_in = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(calls)
        os.close(answers)
        _serve(source, calls_out, answers_in)
    os.close(calls_out)
    os.close(answers_in)
    program = Program(child, calls, answers)
    order = receive(0)
    sys.stdout = io.StringIO()  # Output of the tests must not look like the verdict.
    try:
        _judge(order, program)
    except ProgramEnded:
        code = program.exit_code()
        ending = signal.Signals(code - 128).name if code > 128 else f"exit code {code}"
        print(f"the program ended: {ending}", file=sys.stderr)
        os._exit(code if code > 128 else 1)
    except BaseException:
        traceback.print_exc(limit=-1)
        os._exit(1)
    os.write(1, order["nonce"].encode())
    os._exit(0)


def _judge(order: Any, program: Program) -> None:
    """Runs the context, which may define names for tests, then the tests, with the program's functions by name."""
    space: dict[str, Any] = {"__name__": "tests"}
    exec(compile(order["context"], "context", "exec"), space)
    for name in order["names"]:
        space[name] = program.function(name)
    exec(compile(order["tests"], "tests", "exec"), space)
    if program.has_ended:  # A bare `except` in a test may have hidden it.
        raise ProgramEnded


def _exception(name: str, message: str) -> Exception:
    """The exception that a function raised, as the built-in exception of that name if there is one."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError and others need more than a message
            pass
    return RuntimeError(f"{name}: {message}")


def _serve(source: str, calls: int, answers: int) -> None:
    """In the program's process: runs the program, then answers calls of its functions until there are no more."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    space: dict[str, Any] = {"__name__": "program"}
    try:
        exec(compile(source, "program", "exec"), space)
        while True:
            send(answers, _answer(space, receive(calls)))
    finally:
        os._exit(1)


def _answer(space: dict[str, Any], request: Any) -> Any:
    """Answers one call. A missing function ends the process, so it cannot look like an error that a test expects."""
    function = space[request["name"]]
    args, kwargs = decode(request["args"]), decode(request["kwargs"])
    try:
        return {"value": encode(function(*args, **kwargs))}
    except Exception as e:
        return {"raised": type(e).__name__, "message": str(e)[:1000]}
