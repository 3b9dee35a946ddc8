"""What only a GPU can show. Without one these tests are skipped, and say so."""

from __future__ import annotations

import os

import pytest
import torch

from aquarat_core.runtime.distributed import World

# As `distributed_world` does, before any test has multiplied a matrix.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
GPU = World(0, 1, torch.device("cuda", 0), torch.bfloat16)
