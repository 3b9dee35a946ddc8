"""The sandboxes of this machine. One that the machine has and that does not work is a failure, not a reason to skip."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from aquarat_core.sandbox import landlock
from aquarat_core.sandbox.limits import SandboxName
from aquarat_core.sandbox.run import fault_of


def absence(name: SandboxName) -> str | None:
    """Why this machine cannot have that sandbox, found without our code where it can be."""
    if name == "landlock":
        try:
            landlock.version()
        except OSError as e:
            return str(e)
        return None
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (apt-get install bubblewrap)"
    tried = subprocess.run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else None


@pytest.fixture(params=["bubblewrap", "landlock"], scope="session")
def sandbox(request: pytest.FixtureRequest) -> SandboxName:
    """Each sandbox in turn."""
    why = absence(request.param)
    if why is not None:
        pytest.skip(f"NOT TRIED in {request.param}: {why}")
    assert fault_of(request.param) is None
    return request.param
