"""`./run bench [NAME ...]`: runs the named benches, each with a table and then one line of JSON; no name lists them.

The exit code is 0 when everything was measured, whether goals were met or not, 1 when a bench could not measure and 2
for a name that there is none of. A bench that checks instead of measuring has a function `main`, which takes the
options after its name (`./run bench same --against COMMIT`) and returns the exit code.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks.harness import BenchError, Result, report

NOT_BENCHES = (
    "__init__",
    "__main__",
    "control_plane_host",
    "control_plane_measure",
    "control_plane_world",
    "corpus",
    "data_scale_reader",
    "data_scale_worker",
    "data_worker",
    "eval_chat",
    "harness",
    "in_memory",
    "random_models",
    "release_worker",
    "serve_worker",
    "store_worker",
    "tokenizer_worker",
    "rl_stage",
)


def main(arguments: Sequence[str], package: ModuleType = benchmarks) -> int:
    """Runs the named benches of `package`, the last with the options that follow it; returns the exit code."""
    known = benches(package)
    n = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    names, options = arguments[:n], arguments[n:]
    if unknown := [name for name in names if name not in known]:
        print(f"bench: there is no {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    if not names:
        width = max(map(len, known))
        print("\n".join(f"{name:<{width}}  {what}" for name, what in known.items()))
        return 0
    return max([_run(name, package, options if name == names[-1] else ()) for name in names])


def benches(package: ModuleType) -> dict[str, str]:
    """Name and first docstring line of every bench, read from the sources: importing them all would take a while."""
    files = sorted(path for root in package.__path__ for path in Path(root).glob("*.py"))
    docs = {
        f.stem.replace("_", "-"): ast.get_docstring(ast.parse(f.read_text())) or ""
        for f in files
        if f.stem not in NOT_BENCHES
    }
    return {name: doc.partition("\n")[0] for name, doc in docs.items()}


def _run(name: str, package: ModuleType, options: Sequence[str]) -> int:
    bench = importlib.import_module(f"{package.__name__}.{name.replace('-', '_')}")
    try:
        if hasattr(bench, "main"):
            return bench.main(options)
        if options:
            print(f"bench: {name} takes no options, got {' '.join(options)}", file=sys.stderr)
            return 2
        results = bench.run()
    except BenchError as e:
        print(f"bench {name}: {e}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_table(name, results))
    print(json.dumps(report(name, results)), flush=True)
    return 0


def _table(name: str, results: Sequence[Result]) -> Table:
    table = Table("result", "value", "spread", "runs", "against", "ratio", "goal", "met", title=name)
    for column in table.columns[1:4]:
        column.justify = "right"
    for r in results:
        if r.value is None:
            table.add_row(r.name, "not measured", "", "", r.reason, "", r.goal, "")
            continue
        low, high = r.spread
        table.add_row(
            r.name,
            f"{r.value:,.4g} {r.unit}",
            f"{low:,.4g} to {high:,.4g}" if len(r.runs) > 1 else "",
            str(len(r.runs)),
            f"{r.against.name} {r.against.value:,.4g}" if r.against else "",
            f"{r.ratio:.3g}" if r.ratio is not None else "",
            r.goal,
            {True: "yes", False: "no", None: ""}[r.met],
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
