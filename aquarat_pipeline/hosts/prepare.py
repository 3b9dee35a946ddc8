"""Prepares a bare host: makes an environment from the lock file as the host's own user, and installs the project in it.

A lock file for the host's driver (without Dagster, tests and benchmarks), the project's wheel and the tokenizer's wheel
are sent; the locked packages come from the package index that the host's pip uses. The lock is complete, so pip
resolves nothing (older versions cannot, if it names a package with an extra). An environment is named by the hash of
all three, so preparing again does nothing, and a running job keeps its environment when a newer one is made. A host
without a suitable Python gets one. Needs no root.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from aquarat_core.agent.protocol import Machine
from aquarat_core.artifacts.environment import ENVIRONMENT_FILE
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.environments import BROUGHT_PYTHON, Choice, UnfitHostError, choose, environments
from aquarat_pipeline.hosts.host import Host, InventoryError
from aquarat_pipeline.hosts.transports import HostError, SshTransport, shell_path

INSTALL_SECONDS = 3600.0

SCRIPT = """
set -eu
umask 077
root={root} name={name}
env="$root/envs/$name"
exec 9>"$root/prepare.lock"
flock 9
if [ ! -e "$env/.ready" ]; then
    {python}
    rm -rf "$env"
    "$python" -m venv "$env"
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps {options} \
        -r "$root/wheels/$name/{lock}"
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-index \
        "$root/wheels/$name/"*.whl
    printf '%s\\n' {record} >"$env/{record_name}"
    touch "$env/.ready"
    echo made
else
    echo there
fi
ln -sfn "$env" "$root/env.new" && mv -T "$root/env.new" "$root/env"
"""
"""One at a time: whoever started another may be gone while it goes on."""
BRING_PYTHON = """
    chmod 700 {uv}
    export UV_PYTHON_INSTALL_DIR="$root/pythons" UV_CACHE_DIR="$root/uv/cache"
    {uv} python install --no-progress --no-bin --no-config {version} >&2
    python=$({uv} python find --managed-python --no-project --no-config {version})
"""
"""uv verifies the archive that it downloads: it knows the hash of each."""


def prepare(host: Host, checkout: Path, say: Callable[[str], None], options: str = "") -> str:
    """Installs the checkout on the host; returns what was done.

    Raises `UnfitHostError` if no environment runs there, `HostError`, or `InventoryError` for this machine. `options`
    are further options of `pip install`, such as another index.
    """
    if host.transport == "local":
        raise InventoryError(f"{host.name} is this machine, which already has the project: only ssh hosts are prepared")
    transport = SshTransport(host)
    tokenizer = tokenizer_wheel(checkout)
    machine = HostAgent(host).machine()
    try:
        choice = choice_for(host, machine, checkout)
    except UnfitHostError as e:
        raise UnfitHostError(f"{host.name}: {e}") from None
    lock = choice.environment.lock
    name = _hash(checkout, [lock, tokenizer])
    _send_packages(transport, host, f"{host.root}/wheels/{name}", checkout, [lock, tokenizer], say)
    script = SCRIPT.format(
        root=shell_path(host.root),
        name=name,
        python=_python(transport, host, choice, _uv(checkout), say),
        options=options,
        lock=lock.name,
        record=shlex.quote(json.dumps(_record(choice, machine))),
        record_name=ENVIRONMENT_FILE,
    )
    say(f"{host.name}: environment {name}, {choice.environment} (takes minutes the first time)")
    made = _run(transport, script, INSTALL_SECONDS)
    return f"{host.name}: environment {name}, {choice.environment}, was {made.split()[-1]}"


def choice_for(host: Host, machine: Machine, checkout: Path) -> Choice:
    """What the host gets. Raises `UnfitHostError` with the reason if no environment runs there."""
    wheel, brings = tokenizer_wheel(checkout).name, _uv(checkout) is not None
    return choose(environments(checkout), machine, wheel, gpus=host.gpus, brings=brings)


def _send_packages(
    transport: SshTransport, host: Host, folder: str, checkout: Path, files: list[Path], say: Callable[[str], None]
) -> None:
    """Sends `files` and the project's wheel, unless they are there."""
    present = _run(transport, f"cd {shell_path(folder)} 2>/dev/null && ls || true").split()
    if any(entry.startswith("aquarat-") for entry in present):
        return
    with tempfile.TemporaryDirectory(prefix="aquarat-wheel-") as scratch:
        for path in (*files, _project_wheel(checkout, Path(scratch))):
            _send(transport, host, path, f"{folder}/{path.name}", say)


def _python(transport: SshTransport, host: Host, choice: Choice, uv: Path | None, say: Callable[[str], None]) -> str:
    """The part of the script that sets `$python`; sends uv if the host has no suitable interpreter."""
    if choice.python is not None:
        return f"python={shlex.quote(choice.python['command'])}"
    assert uv is not None, "there is no choice of bringing an interpreter without uv"
    path = f"{host.root}/uv/uv-{hashlib.sha256(uv.read_bytes()).hexdigest()[:16]}"
    if not _run(transport, f"[ -e {shell_path(path)} ] && echo there || true").strip():
        _send(transport, host, uv, path, say)
    say(f"{host.name}: it has no suitable Python, so uv installs {BROUGHT_PYTHON} below {host.root}")
    return BRING_PYTHON.format(uv=shell_path(path), version=BROUGHT_PYTHON)


def _record(choice: Choice, machine: Machine) -> dict[str, str | None]:
    """What the environment was made for; manifests name it."""
    return {
        "name": choice.environment.name,
        "torch": choice.environment.torch,
        "cuda": choice.environment.cuda,
        "lock_sha256": hashlib.sha256(choice.environment.lock.read_bytes()).hexdigest(),
        "driver": machine["driver"],
        "python": choice.python["command"] if choice.python else f"uv, {BROUGHT_PYTHON}",
    }


def _send(transport: SshTransport, host: Host, path: Path, target: str, say: Callable[[str], None]) -> None:
    say(f"{host.name}: sending {path.name} ({path.stat().st_size / 1e6:.1f} MB)")
    transport.send(path.read_bytes(), target)


def _uv(checkout: Path) -> Path | None:
    """This machine's uv, which a host without a suitable Python gets."""
    own = checkout / ".uv/bin/uv"
    found = str(own) if own.exists() else shutil.which("uv")
    return Path(found) if found else None


def _project_wheel(checkout: Path, scratch: Path) -> Path:
    """The wheel of `aquarat_core` alone, because a GPU host does not need the control host's half."""
    source, out = scratch / "source", scratch / "wheel"
    out.mkdir()
    shutil.copytree(checkout / "aquarat_core", source / "aquarat_core", ignore=shutil.ignore_patterns("__pycache__"))
    # The last two are in the wheel's metadata.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (checkout / name).exists():
            shutil.copy(checkout / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"the project's wheel cannot be built: {done.stderr.strip()[-300:]}")
    return next(out.glob("*.whl"))


def tokenizer_wheel(checkout: Path) -> Path:
    """The wheel for hosts. Raises `InventoryError` if it was not built."""
    wheels = sorted((checkout / "rust/target/wheels").glob("*.whl"))
    if not wheels:
        raise InventoryError("the tokenizer's wheel is missing: `./run setup` builds it")
    return wheels[-1]


def _hash(checkout: Path, files: list[Path]) -> str:
    """Hashes the sources instead of the wheel, which contains the time at which it was built."""
    sources = [path for path in (checkout / "aquarat_core").rglob("*") if path.suffix in (".py", ".yaml")]
    digest = hashlib.sha256()
    for path in sorted([*sources, checkout / "pyproject.toml", *files]):
        digest.update(f"{path.relative_to(checkout)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _run(transport: SshTransport, script: str, seconds: float = 60.0) -> str:
    done = transport.shell(script, seconds=seconds)
    if done.returncode:
        raise HostError(done.stderr.decode(errors="replace").strip()[-500:] or f"exit code {done.returncode}")
    return done.stdout.decode()
