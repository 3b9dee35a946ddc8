"""Fixtures around the toy chain."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from tests.pipeline import toy_definitions
from tests.pipeline.toy_chain import Chain


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Tells the toy stage of an asset what to do."""

    def give(asset: str, **orders: Any) -> None:
        monkeypatch.setenv(f"TOY_{asset.upper()}", json.dumps(orders))

    return give


@pytest.fixture
def chain(instance: dg.DagsterInstance, store_uri: str) -> Chain:
    """The toy chain on an empty store and an empty instance."""
    return Chain(instance, toy_definitions.build())
