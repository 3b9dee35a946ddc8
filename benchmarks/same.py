"""Compares the artifacts of a short chain with those made by the code of another commit (`--against COMMIT`).

Both versions run all stages of `same.yaml` on this machine at the same time, each from its own checkout into its own
store. Every file of every artifact must have the same hash, and every metric in the manifests the same value. What
may differ is named here: times (`TIMED`), and in the `report.json` of reports whatever names the code or the run
(`NAMES_OF_A_RUN`). Records, such as logs and pages, are not compared.

The other commit is cloned into a temporary directory and runs in a virtual environment of its own on top of this
checkout's packages; the tokenizer's extension is built for it if `rust/` differs. Both sides are driven by the command
`aquarat` and read by the store's documented layout, so that modules may move between the two commits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquarat_core.maintenance.reproduce import TIMED
from benchmarks.harness import BenchError

ROOT = Path(__file__).resolve().parents[1]
PROFILE = Path(__file__).with_name("same.yaml")
LAST = "pipeline_report"
NAMES_OF_A_RUN = frozenset(
    {"manifest_sha256", "run_id", "data_version", "code", "parser", "profile", "profiles", "created"}
)
"""Fields of a `report.json` that name a publication or the code that made it. The data versions among them are those
of artifacts that are compared themselves."""


@dataclass(frozen=True, slots=True)
class Side:
    """One version of the code: its checkout, the interpreter that has it installed, and where it keeps its results."""

    name: str
    checkout: Path
    python: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the user's own store, settings or W&B account."""
        foreign = ("AQUARAT_", "DAGSTER_", "WANDB_", "PYTHONPATH", "VIRTUAL_ENV")
        return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_MODULE_NAME": "aquarat",
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "AQUARAT_STORE": f"file://{self.home}/store",
            "AQUARAT_CACHE": str(self.home / "cache"),
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
        }

    def aquarat(self, *arguments: str) -> str:
        """Standard output of the command `aquarat`. Raises `BenchError` with what it printed if it fails."""
        command = [str(self.python.with_name("aquarat")), *arguments]
        return _call(command, self.checkout, self.environment, f"aquarat {arguments[0]} ({self.name})")


@dataclass(frozen=True, slots=True)
class Found:
    """An artifact as the store has it."""

    kind: str
    data_version: str
    files: dict[str, str]
    """SHA-256 by path."""
    metrics: dict[str, Any]
    report: Any = None
    """Content of `report.json`, of artifacts of kind `report` only."""


def main(arguments: Sequence[str]) -> int:
    """Runs both sides and compares. Prints each difference, then one line of JSON; returns 1 if there is any."""
    parser = argparse.ArgumentParser(prog="./run bench same", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--against", required=True, metavar="COMMIT", help="the version to compare with")
    parser.add_argument("--asset", default=LAST, help=f"make this asset and its ancestors only (default: {LAST}, all)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="aquarat-same-") as folder:
        there = other_side(options.against, Path(folder) / "there")
        sides = there, _side("here", ROOT, Path(sys.executable), Path(folder))
        with ThreadPoolExecutor(len(sides)) as pool:
            there_found, here_found = pool.map(lambda side: make(side, options.asset), sides)
    same, different = compare(there_found, here_found)
    print("\n".join([*different, f"{same} files and metrics are the same, {len(different)} are not"]), file=sys.stderr)
    print(json.dumps({"same": same, "different": different}), flush=True)
    return 1 if different else 0


# --- the two sides --------------------------------------------------------------------------------------------------


def other_side(commit: str, folder: Path) -> Side:
    """The code of `commit`, cloned and installed under `folder`. Raises `BenchError` if there is no such commit."""
    checkout, python = folder / "checkout", folder / "env/bin/python"
    resolved = _call(["git", "rev-parse", "--verify", f"{commit}^{{commit}}"], ROOT, what=f"finding {commit}").strip()
    _call(["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(checkout)], ROOT)
    _call(["git", "checkout", "--quiet", "--detach", resolved], checkout)
    _call([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], ROOT)
    packages = _site_packages(Path(sys.executable))
    # A path in a .pth file is searched last, and the .pth files in it are not read: not this checkout's own either.
    (_site_packages(python) / "packages.pth").write_text(f"{packages}\n")
    uv = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python)]
    _call([*install, "--no-build-isolation", "--editable", str(checkout)], checkout, what="installing the other commit")
    if _rust_differs(resolved):
        print("same: rust/ differs, so the tokenizer is built for the other commit", file=sys.stderr)
        wheels, maturin = folder / "wheels", str(Path(sys.executable).with_name("maturin"))
        build = [maturin, "build", "--quiet", "--release", "--locked", "--interpreter", str(python)]
        target = {**os.environ, "CARGO_TARGET_DIR": str(folder / "target")}
        _call([*build, "--out", str(wheels)], checkout / "rust", target, what="building the tokenizer")
        _call([*install, *map(str, wheels.glob("*.whl"))], checkout)
    return _side(f"there: {resolved[:12]}", checkout, python, folder)


def _side(name: str, checkout: Path, python: Path, folder: Path) -> Side:
    home = folder / "home"
    home.mkdir()
    shutil.copy(checkout / "dagster_home/dagster.yaml", home)
    return Side(name, checkout, python, home)


def _site_packages(python: Path) -> Path:
    return Path(_call([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], ROOT).strip())


def _rust_differs(commit: str) -> bool:
    """Whether the extension installed here, which is made of the files as they are now, is not that of `commit`."""
    built = ["rust", ":!rust/fuzz"]
    changed = subprocess.run(["git", "diff", "--quiet", commit, "--", *built], cwd=ROOT).returncode
    return bool(changed or _call(["git", "ls-files", "--others", "--exclude-standard", "--", *built], ROOT))


def _call(command: Sequence[str], cwd: Path, environment: dict[str, str] | None = None, what: str = "") -> str:
    """Standard output. Raises `BenchError` with the end of what it said if the command fails."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:].strip()
        raise BenchError(f"{what or ' '.join(command[:3])} ended with exit code {done.returncode}: {said}")
    return done.stdout


def make(side: Side, asset: str) -> dict[str, Found]:
    """Makes the asset with all its ancestors and returns the artifacts by asset."""
    side.aquarat("materialize", asset, "--with-parents", "--profile", str(PROFILE), "--json")
    listed = json.loads(side.aquarat("store", "ls", "--json").splitlines()[-1])
    if listed["problems"]:
        raise BenchError(f"the store of {side.name} is damaged: {'; '.join(listed['problems'])}")
    return {a["asset"]: _read(side, a["manifest_sha256"], a["data_version"]) for a in listed["artifacts"]}


def _read(side: Side, sha256: str, data_version: str) -> Found:
    store = side.home / "store"
    manifest = json.loads((store / f"manifests/{sha256}.json").read_bytes())
    files = {f["path"]: f["sha256"] for f in manifest["files"]}
    report = None
    if manifest["kind"] == "report":
        digest = files["report.json"]
        report = json.loads((store / f"blobs/sha256/{digest[:2]}/{digest}").read_bytes())
    return Found(manifest["kind"], data_version, files, manifest["metrics"], report)


# --- the comparison -------------------------------------------------------------------------------------------------


def compare(there: dict[str, Found], here: dict[str, Found]) -> tuple[int, list[str]]:
    """How many files and metrics are the same, and a line for everything that is not."""
    same, different = 0, [f"{asset}: {_only(asset in here)}" for asset in sorted(there.keys() ^ here.keys())]
    for asset in (name for name in there if name in here):
        a, b = _facts(there[asset]), _facts(here[asset])
        for name in sorted(a.keys() | b.keys()):
            if name not in a or name not in b:
                different.append(f"{asset} {name}: {_only(name in b)}")
            elif a[name] == b[name]:
                same += 1
            else:
                different.append(f"{asset} {name}: {_shown(a[name])} there, {_shown(b[name])} here")
    return same, different


def _facts(found: Found) -> dict[str, Any]:
    """What must be the same, by name."""
    facts: dict[str, Any] = {"kind": found.kind}
    facts |= {f"file {path}": digest for path, digest in found.files.items()}
    facts |= {f"metric {name}": value for name, value in without_times(found.metrics).items()}
    if found.report is None:
        return facts | {"data version": found.data_version}
    del facts["file report.json"]
    return facts | {f"report.json {where}": value for where, value in _leaves(found.report).items()}


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics that two runs of the same code have in common."""
    return {name: value for name, value in metrics.items() if not name.endswith(TIMED)}


def _leaves(value: Any, where: str = "") -> dict[str, Any]:
    """The numbers and texts of a report under dotted names, without times and names of a run."""
    if isinstance(value, dict):
        inner = {k: v for k, v in without_times(value).items() if k not in NAMES_OF_A_RUN}
    elif isinstance(value, list):
        inner = dict(enumerate(value))
    else:
        return {where: value}
    return {name: leaf for k, v in inner.items() for name, leaf in _leaves(v, f"{where}.{k}".lstrip(".")).items()}


def _only(here: bool) -> str:
    return "only here" if here else "only there"


def _shown(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else repr(value)
