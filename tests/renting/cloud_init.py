"""What cloud-init does with an order's user data, as far as our orders use it, and refuses everything else.

cloud-init itself warns about what it does not know and goes on; here that is a fault, because the host would silently
not be what was ordered. Source: cloud-init's documentation of the modules `ssh` and `package_update_upgrade_install`.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KEY_FIELD = re.compile(r"(rsa|ecdsa|ed25519)_(private|public)")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")


class UserDataError(ValueError):
    """User data with which a host would not become what was ordered."""


@dataclass(frozen=True)
class HostKey:
    private: str
    public: str

    def write(self, folder: Path) -> Path:
        """The file of the private key, for sshd. Raises `UserDataError` if the halves do not belong together."""
        path = folder / "host"
        path.write_text(self.private)
        path.chmod(0o600)
        shown = subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", path], capture_output=True, text=True)
        if shown.returncode:
            raise UserDataError(f"the private host key cannot be read: {shown.stderr.strip()}")
        if shown.stdout.split()[:2] != self.public.split()[:2]:
            raise UserDataError("the public host key is of another private one")
        path.with_suffix(".pub").write_text(self.public)
        return path


@dataclass(frozen=True)
class UserData:
    host_keys: tuple[HostKey, ...] = ()
    packages: tuple[str, ...] = ()


class _Strict(yaml.SafeLoader):
    """YAML in which no name may be given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if len(names) != len(set(names)):
            raise UserDataError(f"a name is given twice: {names}")
        return super().construct_mapping(node, deep)


def parse(text: str) -> UserData:
    """Raises `UserDataError`."""
    first, _, rest = text.partition("\n")
    if first.rstrip() != "#cloud-config":
        raise UserDataError(f"the first line is {first!r}, so cloud-init would not read it as its configuration")
    try:
        given = yaml.load(rest, _Strict)
    except yaml.YAMLError as e:
        raise UserDataError(f"it is not YAML: {e}") from None
    if not isinstance(given, dict):
        raise UserDataError("it is not a mapping")
    packages: tuple[str, ...] = ()
    keys: tuple[HostKey, ...] = ()
    for name, value in given.items():
        match name:
            case "ssh_deletekeys" | "package_update" if isinstance(value, bool):
                pass
            case "packages" if isinstance(value, list) and all(
                isinstance(one, str) and PACKAGE.fullmatch(one) for one in value
            ):
                packages = tuple(value)
            case "ssh_keys" if isinstance(value, dict):
                keys = _host_keys(value)
            case _:
                raise UserDataError(f"an order has no business with {name}: {value!r}")
    return UserData(keys, packages)


def _host_keys(given: dict[Any, Any]) -> tuple[HostKey, ...]:
    halves: dict[str, dict[str, str]] = {}
    for name, value in given.items():
        found = KEY_FIELD.fullmatch(str(name))
        if not found or not isinstance(value, str):
            raise UserDataError(f"ssh_keys: cloud-init does not know {name}")
        halves.setdefault(found[1], {})[found[2]] = value
    if any(len(pair) != 2 for pair in halves.values()):
        raise UserDataError("ssh_keys: a key has only one half")
    return tuple(HostKey(pair["private"], pair["public"]) for pair in halves.values())
