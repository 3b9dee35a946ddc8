"""What a stage's process is set to before its first tensor and before torch's compiler is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import json, os, sys
import aquarat_core.stages.base_checkpoint, aquarat_core.stages.chat_training, torch
from aquarat_core.config import LaunchConfig
from aquarat_core.runtime.distributed import distributed_world
with distributed_world(LaunchConfig(device="cpu")):
    x = torch.ones(64 << 20, dtype=torch.uint8)
    huge = [int(l.split()[1]) for l in open("/proc/self/smaps_rollup") if l.startswith("AnonHugePages")][0]
    print(json.dumps([huge, os.environ["TORCHINDUCTOR_CACHE_DIR"], "torch._dynamo" in sys.modules]))
"""


@pytest.mark.slow
def test_tensors_lie_in_huge_pages_and_compiled_code_in_the_cache(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("TORCHINDUCTOR_CACHE_DIR", "THP_MEM_ALLOC_ENABLE")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment | {"AQUARAT_CACHE": str(tmp_path)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    kib, compiled, compiler_imported = json.loads(done.stdout)
    given = SETTING.is_file() and "[never]" not in SETTING.read_text()
    assert (kib >= 32 << 10) == given
    assert (compiled, compiler_imported) == (str(tmp_path / "compiled"), False)
