"""The ssh host keys of rented hosts: each rental has a `known_hosts` file of its own, written before the first
connection, and every connection insists on it.

Where an order can carry data for cloud-init, we make the key ourselves and know it before the host exists. Otherwise
the provider tells it, or the first look decides, which nobody vouches for.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from aquarat_core.artifacts.files import atomic_write
from aquarat_core.errors import UserError

KNOWN_HOSTS = "known_hosts"
PRIVATE = "host_key"
KINDS = "ed25519,ecdsa,rsa"
LOOK_SECONDS = 10
_SEEN = "# This key was seen at the first look. Nobody vouches for it."


class NoHostKeyError(UserError):
    """No key of the host could be learned yet; the message says why."""


def ordered(folder: Path, rental: str) -> str:
    """Makes the key of a rental that is about to be ordered, and pins it; the data for cloud-init that gives it to the
    host. May be repeated until the order is sent. Raises `NoHostKeyError`.
    """
    private, public = folder / PRIVATE, folder / f"{PRIVATE}.pub"
    if not (private.exists() and public.exists()):
        private.unlink(missing_ok=True)
        public.unlink(missing_ok=True)
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", rental, "-f", str(private)])
    key = public.read_text().strip()
    pin(folder, rental, [key])
    indented = "".join(f"    {line}\n" for line in private.read_text().splitlines())
    return f"#cloud-config\nssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n{indented}  ed25519_public: {key}\n"


def discard(folder: Path) -> None:
    """Removes the private key: an order is sent once. Never fails."""
    with suppress(OSError):
        (folder / PRIVATE).unlink(missing_ok=True)


def pin(folder: Path, rental: str, keys: Sequence[str], *, seen: bool = False) -> None:
    """From now on the host must show one of these keys (`ssh-ed25519 AAAA...`). `seen`: nobody vouches for them."""
    lines = [f"{rental} {' '.join(key.split()[:2])}" for key in keys]
    with atomic_write(folder / KNOWN_HOSTS, private=True, durable=True) as file:
        file.write("\n".join([*([_SEEN] if seen else []), *lines, ""]).encode())


def is_pinned(folder: Path) -> bool:
    return (folder / KNOWN_HOSTS).exists()


def was_seen(folder: Path) -> bool:
    """Whether the pinned key is known by the first look alone."""
    return (folder / KNOWN_HOSTS).read_text().startswith(_SEEN)


def look(address: str, port: int) -> tuple[str, ...]:
    """The keys that whoever answers there shows. Raises `NoHostKeyError` if nobody does."""
    command = ["ssh-keyscan", "-T", str(LOOK_SECONDS), "-p", str(port), "-t", KINDS, "--", address]
    lines = _run(command).splitlines()
    keys = tuple(" ".join(line.split()[1:3]) for line in lines if not line.startswith("#") and len(line.split()) >= 3)
    if not keys:
        raise NoHostKeyError(f"no sshd shows a key at {address} port {port} yet")
    return keys


def fingerprint(folder: Path) -> str:
    """`SHA256:...` of the first pinned key."""
    shown = _run(["ssh-keygen", "-l", "-f", str(folder / KNOWN_HOSTS)]).split()
    return shown[1] if len(shown) > 1 else "unreadable"


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except FileNotFoundError:
        raise NoHostKeyError(
            f"{command[0]} is not installed: install the OpenSSH client (Debian: openssh-client)"
        ) from None
    except subprocess.TimeoutExpired:
        raise NoHostKeyError(f"{command[0]} does not end") from None
    if done.returncode and command[0] != "ssh-keyscan":
        raise NoHostKeyError(f"{command[0]}: {done.stderr.decode(errors='replace').strip()[-200:]}")
    return done.stdout.decode(errors="replace")
