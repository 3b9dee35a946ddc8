"""Runs the checks of `./run check`: lint, format and types of the Python code, format and lint of the Rust code, and a
strict build of the documentation into `site/`.

All checks run at once and all to their end. The exit code is the highest of theirs: 0 if nothing was found, 1 for
findings, 2 where a tool could not do its work.

Types are checked in strict mode. A file whose errors cannot be fixed yet is listed with their number in
`.ci/types.json`; any other file may have none, and at present no file is listed. A number that has gone up is an error,
and so is one that has gone down and is not recorded yet, so that it cannot go up again: `./run check --lower` records
it. After a move of files `--lower` records where the errors are now, as long as there are no more of them in all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).resolve().parents[1]
LIMITS = ROOT / ".ci/types.json"
FOUND, BROKEN = 1, 2
PYTHON_FILES = (".", ".ci")
"""Ruff passes over folders with a leading dot unless they are named."""


class CheckError(Exception):
    """A tool that could not do its work; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit code of a check, a summary for its line, and what it printed."""

    code: int
    summary: str = ""
    output: str = ""


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _run(*command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYO3_PYTHON": sys.executable, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder or ROOT, env=environment, capture_output=True, text=True)


def _command(*command: str, folder: Path | None = None) -> Outcome:
    try:
        done = _run(*command, folder=folder)
    except FileNotFoundError as e:
        return Outcome(BROKEN, f"{e.filename} is missing")
    return Outcome(min(done.returncode, BROKEN), output=done.stdout + done.stderr if done.returncode else "")


def _lint() -> Outcome:
    return _command(_tool("ruff"), "check", "--quiet", *PYTHON_FILES)


def _format() -> Outcome:
    return _command(_tool("ruff"), "format", "--check", "--quiet", "--diff", *PYTHON_FILES)


def _rust_format() -> Outcome:
    return _command("cargo", "fmt", "--check", folder=ROOT / "rust")


def _clippy() -> Outcome:
    command = ("cargo", "clippy", "--locked", "--quiet", "--all-targets", "--features", "python")
    return _command(*command, "--target-dir", "target", "--", "-D", "warnings", folder=ROOT / "rust")


def _docs() -> Outcome:
    """A broken link or anchor fails; nothing is fetched."""
    return _command(_tool("mkdocs"), "build", "--strict", "--quiet", "--site-dir", "site")


# --- types ----------------------------------------------------------------------------------------------------------


class Position(TypedDict):
    line: int
    character: int


class Range(TypedDict):
    start: Position


class Diagnostic(TypedDict):
    """One finding of pyright, as in its JSON."""

    file: str
    severity: str
    message: str
    range: Range


def type_errors() -> list[Diagnostic]:
    """Errors of pyright in the packages. Raises `CheckError` where it could not check them."""
    done = _run(_tool("basedpyright"), "--project", str(ROOT), "--pythonpath", sys.executable, "--outputjson")
    try:
        found: list[Diagnostic] = json.loads(done.stdout)["generalDiagnostics"]
    except (ValueError, KeyError):
        said = done.stdout + done.stderr
        raise CheckError(f"basedpyright ended with exit code {done.returncode}:\n{said}") from None
    if done.returncode not in (0, 1):
        raise CheckError("\n".join(one["message"] for one in found) + done.stderr)
    return [one for one in found if one["severity"] == "error"]


def compare(found: list[Diagnostic], limits: dict[str, int]) -> Outcome:
    """Holds the errors of each file against its limit; files without one may have none."""
    counts = _by_file(found)
    more = sorted(file for file in counts if counts[file] > limits.get(file, 0))
    fewer = sorted(file for file in limits if counts[file] < limits[file])
    lines = [f"{file}: {counts[file]} errors, {limits.get(file, 0)} are allowed" for file in more]
    lines += [_line(one) for one in found if _name(one) in more]
    lines += [f"{file}: {counts[file]} errors, {limits[file]} on record" for file in fewer]
    if fewer:
        lines.append("Record what has become fewer: ./run check --lower")
    summary = f"strict; {counts.total():,} known errors in {len(counts)} files" if counts else "strict"
    return Outcome(FOUND if more or fewer else 0, summary, "\n".join(lines))


def lower(found: list[Diagnostic], limits: dict[str, int], path: Path = LIMITS) -> Outcome:
    """Writes down how many errors each file has, unless there are more in all than before."""
    counts = _by_file(found)
    before = sum(limits.values())
    if counts.total() > before:
        rest = compare(found, limits)
        return Outcome(FOUND, f"not recorded: {counts.total():,} errors, {before:,} before", rest.output)
    path.write_text(json.dumps(dict(sorted(counts.items())), indent=4) + "\n")
    rooms = [f"{sum(counts[file] for file in files):6,}  {room}" for room, files in groupby(sorted(counts), _room)]
    return Outcome(0, f"recorded: {counts.total():,} errors, {before:,} before", "\n".join(rooms))


def _types() -> Outcome:
    return _held_against_limits(compare)


def _lower() -> Outcome:
    return _held_against_limits(lower)


def _held_against_limits(judge: Callable[[list[Diagnostic], dict[str, int]], Outcome]) -> Outcome:
    try:
        return judge(type_errors(), json.loads(LIMITS.read_text()))
    except (CheckError, OSError) as e:
        return Outcome(BROKEN, "not checked", str(e))


def _by_file(found: list[Diagnostic]) -> Counter[str]:
    return Counter(_name(one) for one in found)


def _name(one: Diagnostic) -> str:
    return Path(one["file"]).relative_to(ROOT).as_posix()


def _room(file: str) -> str:
    return "/".join(file.split("/")[:2])


def _line(one: Diagnostic) -> str:
    start = one["range"]["start"]
    return f"  {_name(one)}:{start['line'] + 1}:{start['character'] + 1}: {one['message'].splitlines()[0]}"


# --------------------------------------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[], Outcome]] = {
    "lint": _lint,
    "format": _format,
    "types": _types,
    "rust-format": _rust_format,
    "clippy": _clippy,
    "docs": _docs,
}


def _timed(check: Callable[[], Outcome]) -> tuple[Outcome, float]:
    began = time.monotonic()
    return check(), time.monotonic() - began


def run(checks: dict[str, Callable[[], Outcome]]) -> int:
    """Runs `checks` at once, prints each as soon as those before it are printed, and returns the highest exit code."""
    worst = 0
    with ThreadPoolExecutor(len(checks)) as pool:
        running = {name: pool.submit(_timed, check) for name, check in checks.items()}
        for name, future in running.items():
            outcome, seconds = future.result()
            worst = max(worst, outcome.code)
            verdict = ("ok", "FAILED", "BROKEN")[outcome.code]
            print(f"{name:12} {verdict:7} {seconds:6.1f} s  {outcome.summary}".rstrip(), flush=True)
            if outcome.output:
                print(outcome.output.rstrip("\n"), flush=True)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run check", description="Check the code without running it.")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"some of: {', '.join(CHECKS)} (default: all)")
    parser.add_argument("--lower", action="store_true", help="record that there are fewer type errors, or have moved")
    arguments = parser.parse_args()
    if arguments.lower:
        return run({"types": _lower})
    if unknown := [name for name in arguments.checks if name not in CHECKS]:
        parser.error(f"there is no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    return run({name: CHECKS[name] for name in arguments.checks or CHECKS})


if __name__ == "__main__":
    sys.exit(main())
