"""A stand-in for the Hub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.exchange.model_hub import ModelHub
from tests.serving import serving


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with serving(ModelHub()) as server:
        yield server
