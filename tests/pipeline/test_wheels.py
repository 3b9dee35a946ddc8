"""The wheels in an empty environment: the core alone loads and generates, an extra adds what it is for.

Packages come from the index, or from uv's cache, in the versions of the lock.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.settings import REPO_ROOT
from tests.factories import random_model, tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLE = """
import sys
from importlib.util import find_spec
import aquarat_core as aq

assert not any(map(find_spec, ("dagster", "datasets", "wandb", "gcsfs", "lm_eval"))), "the core needs none of them"
model = aq.load(sys.argv[1], device="cpu")
(one,) = model.generate("12 + 30 =", max_new_tokens=4)
assert one.tokens and isinstance(model.chat("What is 12 + 30?", max_new_tokens=4), str)
assert model.logprobs("12 + 30").total < 0
try:
    aq.load("sft_checkpoint", store="gs://bucket/store")
except aq.UserError as e:
    print(e)
"""


def uv(folder: Path, *arguments: object) -> None:
    found = shutil.which("uv") or str(REPO_ROOT / ".uv/bin/uv")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, cwd=folder)
    if done.returncode and "error sending request" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr


class Environment:
    """A virtual environment with nothing but what `install` puts there."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder, self.wheels = root, folder / "venv", folder / "wheels"
        uv(root, "venv", "--python", sys.executable, self.folder)
        # From a copy, because setuptools leaves folders where it builds.
        source = folder / "source"
        for name in ("aquarat_core", "aquarat_pipeline"):
            shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("aquarat.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(root / name, source)
        uv(source, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", self.wheels)
        # What `./run setup` has built from these sources.
        (wheel,) = (root / "rust/target/wheels").glob("*.whl")
        shutil.copy(wheel, self.wheels)

    def install(self, extra: str = "") -> None:
        (wheel,) = self.wheels.glob("aquarat-*.whl")
        uv(
            self.root, "pip", "install", "--python", self.folder / "bin/python", "--find-links", self.wheels,
            "--constraint", self.root / "requirements.lock", f"{wheel}{extra}",
        )  # fmt: skip

    def run(self, program: str, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
        """A program of the environment, away from the checkout."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DAGSTER_HOME": str(self.folder),
            **environ,
        }
        command = [self.folder / "bin" / program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder)


def commands(listed: str) -> set[str]:
    """The commands in the help of `aquarat`."""
    return set(re.findall(r"^[a-z ]{10} (\w+)  ", listed, re.MULTILINE))


@pytest.fixture(scope="module")
def core(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the core alone."""
    made = Environment(root, tmp_path_factory.mktemp("wheels"))
    made.install()
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    (made / "checkpoint").mkdir()
    tokenizer().save(made / "tokenizer.json")
    save_checkpoint(
        made / "checkpoint", random_model(tokenizer().vocab_size, sequence_len=128), made / "tokenizer.json"
    )
    return made / "checkpoint"


def test_the_core_loads_generates_and_names_what_is_missing(core: Environment, folder: Path) -> None:
    done = core.run("python", "-c", EXAMPLE, folder)
    assert done.returncode == 0, done.stderr
    assert "needs google-cloud-storage, which is not installed: pip install 'aquarat[gcp]'" in done.stdout
    done = core.run("aquarat", "--help")
    assert done.returncode == 0, done.stderr
    assert "ask" in commands(done.stdout) and "materialize" not in commands(done.stdout)
    said = " ".join(done.stdout.split())
    assert "Dagster is not installed: pip install 'aquarat[pipeline]'" in said
    done = core.run("aquarat", "materialize", "rl_checkpoint")
    assert done.returncode == 2 and "aquarat[pipeline]" in done.stderr and "Traceback" not in done.stderr


def test_the_pipeline_is_an_extra(core: Environment) -> None:
    core.install("[pipeline]")
    done = core.run("aquarat", "--help")
    assert done.returncode == 0, done.stderr
    assert "materialize" in commands(done.stdout) and "not installed" not in done.stdout
    done = core.run("python", "-c", "import aquarat_pipeline.definitions as d; assert d.defs; import datasets, wandb")
    assert done.returncode == 0, done.stderr
