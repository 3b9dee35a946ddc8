"""A ledger with many rentals, as after months of use."""

from __future__ import annotations

from aquarat_pipeline.renting.clouds.cloud import Account
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.rental import State
from aquarat_pipeline.renting.requests import new_order
from tests.renting.small_cloud import A10, CAPABILITIES
from tests.renting.world import START

LIFE: tuple[tuple[State, float, dict[str, object]], ...] = (
    ("asking", 1, {"ssh_key": "aquarat-abc123"}), ("granted", 2, {"instance_id": "i-1"}), ("booting", 12, {}),
    ("booting", 192, {"address": "ubuntu@203.0.113.7:22"}), ("ready", 212, {}), ("ready", 240, {"runs": {"run": 1}}),
    ("ready", 3000, {"runs": {}}), ("draining", 3600, {}), ("ending", 3610, {}), ("ending", 3620, {}),
    ("ending", 3621, {"answer": "accepted"}), ("gone", 3650, {}),
)  # fmt: skip
"""What an undisturbed rental leaves: state, seconds after its order, facts."""


def fill(ledger: Ledger, count: int, days_ago: float = 60) -> None:
    """Adds rentals that are gone, a few each day."""
    account = Account("lambda", "lambda")
    for number in range(count):
        at = START - days_ago * 86400 + number * 3 * 3600
        given = (ledger.installation(), account, A10, CAPABILITIES, at, 1.0, 1.0, A10.price)
        rental = ledger.order(new_order(*given, run="run"))
        for state, after, facts in LIFE:
            ended = {"ended": at + after} if state == "gone" else {}
            rental = ledger.append(rental, state, at + after, "why it became so", **facts, **ended)
        assert rental.final
