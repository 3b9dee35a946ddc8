"""The stage table against the code: what a stage imports is what its code version is made of."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from aquarat_core.config import load_profile, override
from aquarat_core.stages.registry import CORE, STAGES, Stage, code_version

PLACES_ONLY = {CORE / "settings.py", CORE / "runtime/scratch.py", CORE / "runtime/rendezvous.py"}
"""Say where things lie and ranks meet, not what comes of it."""


def imported(path: Path) -> set[Path]:
    """Files of aquarat_core that this one imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            place = CORE.parent.joinpath(*name.split("."))
            modules = (place.with_suffix(".py"), place / "__init__.py")
            found |= {m for m in modules if name.startswith("aquarat_core.") and m.is_file()}
    return found


def closure(path: Path) -> set[Path]:
    found, waiting = set(), {path}
    while waiting:
        found |= (now := waiting)
        waiting = set().union(*(imported(p) for p in now)) - found
    return found


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_the_code_version_covers_all_that_the_stage_imports(stage: Stage) -> None:
    entry = CORE.parent.joinpath(*stage.entry.split(":")[0].split(".")).with_suffix(".py")
    needed = closure(entry) - PLACES_ONLY
    assert len(needed) > 4
    sources = [CORE / source for source in stage.sources]
    missing = {str(p.relative_to(CORE)) for p in needed if not any(p == s or s in p.parents for s in sources)}
    assert not missing, f"changes of {', '.join(sorted(missing))} would not make {stage.name} stale"


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_the_table_names_what_exists(stage: Stage) -> None:
    for source in stage.sources:
        assert (CORE / source).exists(), f"{stage.name} names the source {source}, which is not there"
    assert set(stage.inputs) < set(STAGES)
    assert stage.config_type() is None or isinstance(stage.config(load_profile("demo")), stage.config_type())


def test_stages_stand_after_their_inputs() -> None:
    names = list(STAGES)
    for stage in STAGES.values():
        assert all(names.index(parent) < names.index(stage.name) for parent in stage.inputs)


def test_the_code_version_changes_with_the_config_of_the_stage_alone() -> None:
    demo = load_profile("demo")
    other = override(demo, {"sft_checkpoint": {"seed": 12345}})
    sft, rl = STAGES["sft_checkpoint"], STAGES["rl_checkpoint"]
    assert code_version(sft, sft.config(demo)) != code_version(sft, sft.config(other))
    assert code_version(rl, rl.config(demo)) == code_version(rl, rl.config(other))
    trained = [s for s in STAGES.values() if s.kind == "checkpoint"]
    assert len({code_version(s, s.config(demo)) for s in trained}) == 4


def test_the_code_version_changes_with_a_byte_of_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aquarat_core.stages import registry

    core = tmp_path / "aquarat_core"
    (core / "text").mkdir(parents=True)
    stage = Stage("toy", "dataset", "", (), None, "m:f", ("text", "config.py"))
    monkeypatch.setattr(registry, "CORE", core)

    def version(files: dict[str, str]) -> str:
        for name, content in files.items():
            (core / name).write_text(content)
        return code_version(stage, None)

    first = version({"text/a.py": "x = 1\n", "config.py": "", "unrelated.py": ""})
    assert version({"unrelated.py": "y = 2\n", "text/notes.md": "n"}) == first
    second = version({"text/a.py": "x = 2\n"})
    assert second != first
    assert version({"text/a.py": "x = 1\n"}) == first
    assert version({"text/b.py": ""}) not in (first, second)


def test_the_table_is_light() -> None:
    heavy = ["torch", "datasets", "wandb", "gcsfs", "google.cloud.storage", "pyarrow", "numpy", "dagster"]
    light = "aquarat_core.config, aquarat_core.artifacts, aquarat_core.stages.registry"
    code = f"import sys, {light}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CORE.parent)
    assert done.stdout == "[]\n", done.stderr
