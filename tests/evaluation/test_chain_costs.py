"""The last section of the pipeline report: what the chain has cost, by stage."""

from __future__ import annotations

from typing import Any

import pytest

from aquarat_core.evaluation import chain_costs
from aquarat_core.evaluation.document import Document, Table

SFT = {"asset": "sft_checkpoint", "host": "h1", "hours": 2.0, "gpu_hours": 16.0, "cost_usd": 63.84,
       "cost_overhead_usd": 5.32}  # fmt: skip
RL = {"asset": "rl_checkpoint", "host": "h1, h2", "hours": 0.5, "gpu_hours": 8.0, "cost_usd": 0.000001}


def page(*told: dict[str, Any]) -> str:
    return Document("title", "", tuple(chain_costs.section(chain_costs.rows_of(list(told))))).to_markdown()


def test_a_row_for_each_stage_and_their_sum() -> None:
    (heading, table) = chain_costs.section(chain_costs.rows_of([SFT, RL]))
    assert heading.text == "What the chain cost" and isinstance(table, Table)
    assert table.rows == (
        ("sft_checkpoint", "2.0 h", "h1", "16", "$63.84", "$5.32"),
        ("rl_checkpoint", "30 min", "h1, h2", "8", "$0.01", "-"),
        ("in all", "2.5 h", "", "24", "$63.85", "$5.32"),
    )
    assert "our own count" in table.caption and table.caption.endswith("Together: $69.17.")


def test_many_small_amounts_add_up_to_the_micro_dollar() -> None:
    rows = chain_costs.rows_of([RL | {"cost_usd": 0.1}] * 7)
    (_, table) = chain_costs.section(rows)
    assert isinstance(table, Table) and table.rows[-1][4] == "$0.70"


def test_what_has_no_price_is_not_free() -> None:
    text = page({"asset": "base_checkpoint", "host": "this machine", "hours": 0.25, "gpu_hours": 0.0})
    assert "| base_checkpoint | 15 min | this machine | 0 | - | - |" in text
    assert "$" not in text


@pytest.mark.parametrize(
    "told",
    [None, "x", [], [3, None], [{"asset": 3}], [{"asset": "a", "hours": "two", "cost_usd": float("nan")}],
     [{"asset": "a", "hours": True}]],
)  # fmt: skip
def test_without_anything_known_there_is_no_section(told: object) -> None:
    assert chain_costs.section(chain_costs.rows_of(told)) == []
