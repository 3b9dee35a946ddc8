"""The facts about a host that decide which environment can run there: GPUs, driver, Pythons, C library."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .protocol import Gpu, Machine, MachineRequest, PythonFound

PYTHONS = ("python3.13", "python3.12", "python3.11", "python3.14", "python3", "python3.10")
"""Names of interpreters, the best first."""
PROBE = (
    "import importlib.util, json, sys; found = [importlib.util.find_spec(name) for name in ('venv', 'ensurepip')];"
    " print(json.dumps({'version': '.'.join(map(str, sys.version_info[:3])), 'venv': all(found)}))"
)


def report(_root: Path, _request: MachineRequest) -> Machine:
    """Reports the machine; needs nothing that `prepare` installs."""
    rows, problem = driver_gpus()
    libc, version = platform.libc_ver()
    return {
        "gpus": [_gpu(row) for row in rows],
        "driver": rows[0][1] if rows else None,
        "driver_problem": problem,
        "pythons": pythons(),
        "architecture": platform.machine(),
        "libc": f"{libc} {version}".strip(),
    }


def driver_gpus() -> tuple[list[list[str]], str | None]:
    """Name, driver and memory of each GPU that the driver lists, and what is wrong with the driver, if anything."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        out = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
    except FileNotFoundError:
        return [], None
    except subprocess.TimeoutExpired:
        return [], "nvidia-smi does not answer within 30 s: the driver hangs, restart the host"
    text = out.stdout.decode(errors="replace").strip()
    if out.returncode:
        return [], f"nvidia-smi fails: {text.splitlines()[-1] if text else out.returncode}"
    return [row.split(", ") for row in text.splitlines()], None


def pythons() -> list[PythonFound]:
    """The interpreters in `PATH`, each once, and whether they can make virtual environments."""
    found: list[PythonFound] = []
    paths: set[str] = set()
    for name in PYTHONS:
        path = shutil.which(name)
        if path is None or os.path.realpath(path) in paths:
            continue
        paths.add(os.path.realpath(path))
        try:
            out = subprocess.run(
                [path, "-I", "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30
            )
            said = json.loads(out.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            continue  # a name that starts nothing, as pyenv's may
        found.append({"command": path, "version": said["version"], "venv": said["venv"]})
    return found


def _gpu(row: list[str]) -> Gpu:
    memory = row[2].partition(" ")[0] if len(row) > 2 else ""
    return {"name": row[0], "memory_mib": int(memory) if memory.isdecimal() else None}
