"""What the page about clouds says of them is what the adapters say."""

from __future__ import annotations

import importlib

import pytest

from aquarat_core.settings import REPO_ROOT
from aquarat_pipeline.renting.clouds.cloud import KINDS
from aquarat_pipeline.renting.clouds.model import Capabilities


def yes(value: object) -> str:
    return "yes" if value else "no"


def expected(can: Capabilities) -> dict[str, str]:
    keys = {"user_data": "we choose it", "first_use": "first look", "guest_attributes": "the guest tells it"}
    return {
        "a repeated order makes no second host": yes(can.idempotent),
        "the provider ends a host at a time": yes(can.ends_itself),
        "switching a host off ends its bill": yes(can.poweroff_stops_billing),
        "a bill begins": {"asked": "with the order", "running": "when it runs"}[can.billing_starts],
        "a bill counts begun steps of": f"{can.billing_step_seconds} s",
        "cloud-init": yes(can.user_data),
        "host key": keys[can.host_key],
        "prepaid balance": yes(can.balance),
        "seconds between requests, between orders": f"{can.rate.every:g}, {can.rate.rent_every:g}",
    }


@pytest.mark.parametrize(("column", "kind"), [(2, "lambda"), (3, "hyperbolic"), (4, "gce")])
def test_the_table_is_true(column: int, kind: str) -> None:
    text = (REPO_ROOT / "docs" / "clouds.md").read_text().partition("## What they can do")[2].partition("\n\nSo for")[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("|")][2:]
    adapter = importlib.import_module(f"aquarat_pipeline.renting.clouds.{KINDS[kind].adapter}")
    assert {row[1]: row[column] for row in rows} == expected(adapter.CAPABILITIES)
    assert len(KINDS) == 3
