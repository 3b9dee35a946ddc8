"""The stage table."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from aquarat_core.config import load_profile
from aquarat_core.stages.registry import CHAIN, CHECKPOINTS, EVAL_REPORTS, STAGES, Stage


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_the_table_names_what_exists(stage: Stage) -> None:
    assert set(stage.inputs) < set(STAGES)
    assert stage.config_type() is None or isinstance(stage.config(load_profile("demo")), stage.config_type())
    assert callable(stage.load())


def test_stages_stand_after_their_inputs() -> None:
    names = list(STAGES)
    for stage in STAGES.values():
        assert all(names.index(parent) < names.index(stage.name) for parent in stage.inputs)


def test_the_chain_follows_from_the_rows() -> None:
    assert CHAIN == ("base", "mid", "sft", "rl")
    for before, name in pairwise(CHECKPOINTS):
        assert before in STAGES[name].inputs
    for before, phase in zip((None, *CHAIN), CHAIN, strict=False):
        report = STAGES[f"{phase}_eval_report"]
        assert f"{phase}_checkpoint" in report.inputs
        assert [name for name in report.inputs if name in EVAL_REPORTS] == ([f"{before}_eval_report"] if before else [])
    assert set(STAGES["pipeline_report"].inputs) == {*CHECKPOINTS, *EVAL_REPORTS}
    assert all(STAGES[name].distributed for name in (*CHECKPOINTS, *EVAL_REPORTS))


def test_the_chain_is_spelled_in_the_table_alone(root: Path) -> None:
    spelled = [
        path.relative_to(root).as_posix()
        for room in ("aquarat_core", "aquarat_pipeline", "benchmarks")
        for path in sorted((root / room).rglob("*.py"))
        for text in [path.read_text()]
        if all(f'"{phase}"' in text for phase in CHAIN)
        or all(f'"{phase}_checkpoint"' in text for phase in CHAIN)
        or all(f'"{phase}_eval_report"' in text for phase in CHAIN)
    ]
    assert [path for path in spelled if not path.endswith("kill/chain.py")] == ["aquarat_core/stages/registry.py"]


def test_the_table_is_light(root: Path) -> None:
    heavy = ["torch", "datasets", "wandb", "gcsfs", "google.cloud.storage", "pyarrow", "numpy", "dagster"]
    light = (
        "aquarat_core.config, aquarat_core.artifacts, aquarat_core.stages.registry, aquarat_core.stages.code_version"
    )
    code = f"import sys, {light}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout == "[]\n", done.stderr
