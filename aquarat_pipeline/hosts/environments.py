"""Which environment a host gets: decided by its NVIDIA driver, its Pythons, its processor and its C library.

Each lock file of the checkout that is made for hosts is an environment, with a CUDA version of its own. The table of
what is served and what is refused is in `docs/hosts.md`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aquarat_core.agent.protocol import Machine, PythonFound
from aquarat_pipeline.hosts.transports import HostError

LOCKS = ("requirements-host.lock", "requirements-host-cuda12.lock")
"""The lock files for hosts, the preferred one first."""
MIN_DRIVERS = {12: 525, 13: 580}
"""The oldest driver branch for each major version of CUDA, for all its minor versions.

Source: NVIDIA, CUDA Compatibility, Minor Version Compatibility, table 1.
"""
MIN_PYTHON, MAX_PYTHON = (3, 11), (3, 14)
"""For these the locks have wheels."""
BROUGHT_PYTHON = "3.12"
"""The interpreter that a host gets which has none of these, or one without venv."""


class UnfitHostError(HostError):
    """A host that cannot run the stages as it is; trying again does not help. The message says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The packages that a host gets."""

    lock: Path
    name: str
    """`cuda13`, `cuda12`, or `cpu` for a lock without CUDA."""
    cuda: str | None
    """Version of CUDA that its torch is built for."""
    torch: str | None

    @classmethod
    def of(cls, lock: Path) -> Environment:
        """The environment of a lock file. Raises `UnfitHostError` if its CUDA is not in the table."""
        text = lock.read_text()
        cuda = re.search(r"^(?:cuda-toolkit|nvidia-cuda-runtime-cu\d+)==(\d+\.\d+)", text, re.M)
        torch = re.search(r"^torch==([0-9.]+)", text, re.M)
        version = cuda[1] if cuda else None
        if version and _major(version) not in MIN_DRIVERS:
            raise UnfitHostError(f"{lock} is for CUDA {version}, whose oldest driver is not known: see MIN_DRIVERS")
        return cls(lock, f"cuda{_major(version)}" if version else "cpu", version, torch[1] if torch else None)

    @property
    def min_driver(self) -> int:
        """The oldest driver branch with which it runs; 0 without CUDA."""
        return MIN_DRIVERS[_major(self.cuda)] if self.cuda else 0

    def __str__(self) -> str:
        built = f", CUDA {self.cuda}" if self.cuda else ""
        return f"{self.name} (torch {self.torch}{built})" if self.torch else self.name


@dataclass(frozen=True, slots=True)
class Choice:
    """What a host gets. `python` is the interpreter to use; None: it gets one."""

    environment: Environment
    python: PythonFound | None


def environments(checkout: Path) -> list[Environment]:
    """The environments of the checkout, the preferred one first."""
    return [Environment.of(checkout / name) for name in LOCKS if (checkout / name).exists()]


def for_driver(known: Sequence[Environment], driver: str) -> Environment:
    """The first environment that runs with the driver. Raises `UnfitHostError` if none does."""
    if not re.match(r"\d+", driver):
        raise UnfitHostError(f"its NVIDIA driver has an unreadable version, {driver!r}")
    found = next((one for one in known if _major(driver) >= one.min_driver), None)
    if found is None:
        needs = ", ".join(f"CUDA {one.cuda} needs {one.min_driver} or newer" for one in known if one.cuda)
        raise UnfitHostError(f"its NVIDIA driver {driver} is too old: {needs}. Update it, or take another host")
    return found


def choose(known: Sequence[Environment], machine: Machine, wheel: str, *, gpus: int, brings: bool) -> Choice:
    """What the host gets. Raises `UnfitHostError` with the reason if nothing in the table fits.

    `wheel` is the file name of the tokenizer's wheel, which is built for one processor and C library; `gpus` is what
    the inventory promises; `brings` tells whether an interpreter could be brought along.
    """
    _check_platform(machine, wheel)
    if machine["driver"]:
        environment = for_driver(known, machine["driver"])
    elif gpus:
        raise UnfitHostError(machine["driver_problem"] or f"it has no NVIDIA driver, but {gpus} GPUs are promised")
    else:
        environment = known[0]
    python = next((one for one in machine["pythons"] if one["venv"] and _is_supported(one["version"])), None)
    if python is None and not brings:
        has = ", ".join(f"{one['version']}{'' if one['venv'] else ' without venv'}" for one in machine["pythons"])
        raise UnfitHostError(
            f"it has no Python 3.11 to 3.14 with venv (only {has or 'none'}), and there is no uv here to bring one: "
            "install one there (Debian: python3-venv), or run `./run setup` here"
        )
    return Choice(environment, python)


def _check_platform(machine: Machine, wheel: str) -> None:
    tag = re.search(r"-(?:manylinux_(\d+)_(\d+)|linux)_(\w+)\.whl$", wheel)
    if tag is None:  # for any platform
        return
    if machine["architecture"] != tag[3]:
        raise UnfitHostError(
            f"its processor is {machine['architecture']}, but the tokenizer's wheel is for {tag[3]} ({wheel})"
        )
    if tag[1] is None:
        return
    needed = (int(tag[1]), int(tag[2]))
    if not machine["libc"].startswith("glibc ") or _numbers(machine["libc"]) < needed:
        raise UnfitHostError(
            f"its C library is {machine['libc'] or 'unknown'}, but the tokenizer's wheel needs glibc "
            f"{needed[0]}.{needed[1]} or newer ({wheel})"
        )


def _is_supported(version: str) -> bool:
    return MIN_PYTHON <= _numbers(version)[:2] <= MAX_PYTHON


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def _major(version: str) -> int:
    return _numbers(version)[0]
