"""What an artifact was made with: library versions, hardware, and the state of the checkout."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "aquarat",
    "datasets",
    "google-cloud-storage",
    "huggingface-hub",
    "numpy",
    # one of them says for which CUDA torch is built
    "nvidia-cuda-runtime",
    "nvidia-cuda-runtime-cu12",
    "pyarrow",
    "pydantic",
    "rustbpe_py",
    "safetensors",
    "scipy",
    "torch",
    "wandb",
)


def libraries() -> dict[str, str]:
    """Versions of Python and of the installed libraries that can change a result; imports none of them."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


PRICE = "AQUARAT_PRICE_PER_HOUR"
"""Environment variable with the price of an hour of all hosts of a job, in dollars, from the inventory."""
ENVIRONMENT_FILE = "aquarat-environment.json"
"""The record of a host's environment, in its folder: `aquarat hosts prepare` writes what it was made for."""
_DRIVER = Path("/proc/driver/nvidia/version")


def hardware() -> dict[str, str | int | float]:
    """CPU model, usable cores, memory in bytes; version of the NVIDIA driver, if any; GPU name and count if this
    process has imported torch; the environment that `aquarat hosts prepare` made, if it did; the price of an hour in
    dollars, if the inventory has one."""
    facts: dict[str, str | int | float] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
        facts["gpus"] = torch.cuda.device_count()
    if _DRIVER.exists() and (found := re.search(r"  (\d+\.[\d.]+)  ", _DRIVER.read_text())):
        facts["driver"] = found[1]
    if environment := _environment(Path(sys.prefix)):
        facts["environment"] = environment
    if price := os.environ.get(PRICE):
        facts["price_per_hour"] = float(price)
    return facts


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """The commit checked out at `root` and whether anything differs from it; (None, None) if it is not a checkout."""
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root.resolve():
            return None, None
        return _git(root, "rev-parse", "HEAD"), bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _environment(prefix: Path) -> str | None:
    """The name of the environment at `prefix` and where its Python is from: `cuda12, Python from uv`."""
    try:
        record: Any = json.loads((prefix / ENVIRONMENT_FILE).read_text())
        return f"{record['name']}, Python from {record['python']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
