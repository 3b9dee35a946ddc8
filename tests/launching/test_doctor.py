"""What the doctor says of a host, with a driver that is not here played by a script that insists on its question."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.agent.doctor import examine

SMI = """#!/bin/sh
[ "$*" = "--query-gpu=name,driver_version,memory.total --format=csv,noheader" ] || exit 9
echo "NVIDIA A100-SXM4-80GB, 550.54.15, 81920 MiB"
echo "NVIDIA A100-SXM4-80GB, 550.54.15, 81920 MiB"
"""
PYTHON = """#!/bin/sh
echo '{"torch": "2.9.0", "cuda": "12.8", "gpus": 1, "nccl": "2.27.3"}'
"""


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def want(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is asked of a host of two GPUs that has them, in a `PATH` of its own."""
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path / "nvidia-smi", SMI)
    store = tmp_path / "store"
    store.mkdir()
    return {
        "name": "h",
        "interpreter": str(program(tmp_path / "python", PYTHON.replace('"gpus": 1', '"gpus": 2'))),
        "gpus": 2,
        "store": f"file://{store}",
        "here": False,
        "min_free_bytes": 0,
        "time": time.time(),
    }


def test_a_good_host_has_facts_and_no_problems(tmp_path: Path, want: dict[str, Any]) -> None:
    found = examine(tmp_path, want)
    assert found["problems"] == []
    facts = found["facts"]
    assert (facts["gpus"], facts["gpu"], facts["driver"]) == (2, "NVIDIA A100-SXM4-80GB", "550.54.15")
    assert (facts["torch"], facts["cuda"], facts["nccl"]) == ("2.9.0", "12.8", "2.27.3")
    assert facts["store"] == "mounted" and facts["clock_off_s"] < 5


def test_each_lack_is_a_sentence(tmp_path: Path, want: dict[str, Any]) -> None:
    program(tmp_path / "python", PYTHON)
    asked = {"gpus": 4, "store": "file:///nowhere", "min_free_bytes": 10**18, "time": time.time() + 3600}
    problems = examine(tmp_path, want | asked)["problems"]
    beginnings = [
        "its clock is 3600 s behind: ",
        "the inventory promises 4 GPUs, the driver shows 2",
        "torch sees 1 of 4 GPUs: its CUDA 12.8 and the driver differ",
        "only ",
        "the store /nowhere is not a writable directory here: mount it or use a bucket",
    ]
    assert len(problems) == len(beginnings)
    for problem, beginning in zip(problems, beginnings, strict=True):
        assert problem.startswith(beginning)


def test_a_bare_host_is_told_to_be_prepared(tmp_path: Path, want: dict[str, Any]) -> None:
    (tmp_path / "nvidia-smi").unlink()
    found = examine(tmp_path, want | {"interpreter": str(tmp_path / "env/bin/python")})
    assert found["facts"]["gpus"] == 0
    assert found["problems"] == [
        "the inventory promises 2 GPUs, the driver shows 0",
        f"there is no {tmp_path}/env/bin/python: run `aquarat hosts prepare h`",
    ]


def test_a_driver_that_fails_and_a_bucket_out_of_reach_are_said(
    tmp_path: Path, want: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "nvidia-smi", "#!/bin/sh\necho 'Driver/library version mismatch'\nexit 18\n")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    problems = examine(tmp_path, want | {"store": "gs://bucket/store"})["problems"]
    assert problems[0] == "nvidia-smi fails: Driver/library version mismatch"
    assert problems[-1].startswith("http://127.0.0.1:9 cannot be reached: ")


@pytest.mark.parametrize(
    ("address", "says"),
    [("127.0.0.1", None), ("0.0.0.0", "which others can reach"), ("8.8.8.8", "which others can reach"),
     ("192.0.2.7", "is not an address of this host"), ("no.such.host.invalid", "is unknown here")],
)  # fmt: skip
def test_where_hosts_meet_must_be_here_and_private(
    tmp_path: Path, want: dict[str, Any], address: str, says: str | None
) -> None:
    problems = examine(tmp_path, want | {"meeting": [address, 29400]})["problems"]
    assert any(says in problem for problem in problems) if says else problems == []
