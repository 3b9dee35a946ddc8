"""The Rust core's own unit and property tests, which need no interpreter."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from aquarat_core.settings import REPO_ROOT


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_rust_tests_pass() -> None:
    rust = REPO_ROOT / "rust"
    done = subprocess.run(
        ["cargo", "test", "--locked", "--quiet", "--color=never"],
        cwd=rust,
        env={**os.environ, "CARGO_TARGET_DIR": str(rust / "target")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-4_000:]
    passed = sum(int(n) for n in re.findall(r"test result: ok\. (\d+) passed", done.stdout))
    assert passed > 40
