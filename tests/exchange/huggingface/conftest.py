"""A folder of its own for the copies that transformers makes of releases' code."""

from __future__ import annotations

import pytest

from tests.exchange.huggingface.examples import keep_code_in


@pytest.fixture(autouse=True, scope="session")
def code_of_releases(tmp_path_factory: pytest.TempPathFactory) -> None:
    keep_code_in(tmp_path_factory.mktemp("code"))
