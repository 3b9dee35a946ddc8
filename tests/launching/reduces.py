"""Ranks that add up a number again and again until FOLDER/enough is there, for tests of what they listen to.

Run under torchrun as `reduces.py FOLDER`; rank 0 writes FOLDER/running after the first sum.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from aquarat_core.config import LaunchConfig
from aquarat_core.runtime.distributed import distributed_world


def main(folder: Path) -> None:
    with distributed_world(LaunchConfig(device="cpu")) as world:
        enough = torch.zeros(1)
        while not enough.item():
            assert world.sum(torch.ones(1)).item() == world.size
            if world.rank == 0:
                (folder / "running").touch()
                enough = torch.tensor([float((folder / "enough").exists())])
            enough = world.sum(enough if world.rank == 0 else torch.zeros(1))
            time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
