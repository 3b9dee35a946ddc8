"""Calls of `aquarat hosts ...` in this process; the fixtures `fake`, `home` and `unkept` are in `conftest.py`."""

from __future__ import annotations

import time

import pytest

from aquarat_core.cli import main
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.machines import Machine
from tests.renting.fakes.server import KEY

RENT = ["hosts", "rent", "--type", "gpu_1x_a10", "--hours", "1", "--max-price", "1.50"]


def said(capsys: pytest.CaptureFixture[str], argv: list[str], code: int) -> str:
    capsys.readouterr()
    try:
        ended = main(argv)
    except SystemExit as e:
        ended = e.code
    assert ended == code
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert KEY not in text
    return text


def machine(fake: FakeLambda, name: str | None, account: str = KEY) -> Machine:
    return fake.add(
        Machine(fake.new_id(), name, "gpu_1x_a10", "us-east-1", 1_290_000, time.time(), fake.timing, account, "key")
    )
