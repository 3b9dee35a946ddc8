"""Prepares a bare host: makes an environment from the lock file as the host's own user, and installs the project in it.

The stages' lock file (without Dagster, tests and benchmarks), the project's wheel and the tokenizer's wheel are sent;
the locked packages come from the package index that the host's pip uses. The lock is complete, so pip resolves nothing
(older versions cannot, if it names a package with an extra). An environment is named by the hash of all three, so
preparing again does nothing, and a running job keeps its environment when a newer one is made. Needs Python 3.11 or
newer with venv on the host, but no root.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from aquarat_pipeline.hosts.inventory import Host, InventoryError
from aquarat_pipeline.hosts.transports import HostError, SshTransport, shell_path

INSTALL_SECONDS = 3600.0

SCRIPT = """
set -eu
umask 077
root={root} name={name}
env="$root/envs/$name"
if [ ! -e "$env/.ready" ]; then
    python=
    for candidate in {pythons}; do
        command -v "$candidate" >/dev/null || continue
        "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        python=$candidate
        break
    done
    [ -n "$python" ] || {{ echo "no Python 3.11 or newer with venv is there (Debian: python3-venv)" >&2; exit 1; }}
    rm -rf "$env"
    "$python" -m venv "$env"
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps {options} \
        -r "$root/wheels/$name/requirements-host.lock"
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-index \
        "$root/wheels/$name/"*.whl
    touch "$env/.ready"
    echo made
else
    echo there
fi
ln -sfn "$env" "$root/env.new" && mv -T "$root/env.new" "$root/env"
"""


def prepare(host: Host, checkout: Path, say: Callable[[str], None], options: str = "") -> str:
    """Installs the checkout on the host; returns what was done. Raises `HostError`, or `InventoryError` for this
    machine.

    `options` are further options of `pip install`, such as another index.
    """
    if host.transport == "local":
        raise InventoryError(f"{host.name} is this machine, which already has the project: only ssh hosts are prepared")
    transport = SshTransport(host)
    tokenizer = _tokenizer_wheel(checkout)
    lock = checkout / "requirements-host.lock"
    name = _hash(checkout, [lock, tokenizer])
    folder = f"{host.root}/wheels/{name}"
    present = _run(transport, f"cd {shell_path(folder)} 2>/dev/null && ls || true").split()
    if not any(entry.startswith("aquarat-") for entry in present):
        with tempfile.TemporaryDirectory(prefix="aquarat-wheel-") as scratch:
            for path in (lock, tokenizer, _project_wheel(checkout, Path(scratch))):
                say(f"{host.name}: sending {path.name} ({path.stat().st_size / 1e6:.1f} MB)")
                transport.send(path.read_bytes(), f"{folder}/{path.name}")
    say(f"{host.name}: environment {name} (takes minutes the first time)")
    script = SCRIPT.format(
        root=shell_path(host.root), name=name, pythons="python3.13 python3.12 python3.11 python3", options=options
    )
    made = _run(transport, script, INSTALL_SECONDS)
    return f"{host.name}: environment {name} was {made.split()[-1]}"


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


def _tokenizer_wheel(checkout: Path) -> Path:
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
