"""The sensor that sees that rented hosts have a keeper, which ends them."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg

SECONDS = 30
"""Shortest time between two ticks; for so long rentals may be without a keeper that died."""


def keep_rentals() -> dg.SensorDefinition:
    """The sensor that starts the keeper if one is needed and none is at work. It speaks with no cloud itself."""

    @dg.sensor(  # pyright: ignore[reportUnknownMemberType]  # a generic class without its argument
        name="keep_rentals",
        minimum_interval_seconds=SECONDS,
        # Rented hosts cost money for as long as nobody ends them.
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Starts the keeper, which rents and ends hosts, if none is at work and a rental has not ended or a step "
            "waits for a pool of rent.yaml that is automatic. It needs the accounts' keys in the code server's "
            "environment. On from the start; does nothing where nothing is rented."
        ),
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        from aquarat_pipeline.renting import keeping

        home = Path(context.instance.root_directory)
        if keeping.is_alive(home):
            return dg.SkipReason("The keeper is at work.")
        why = keeping.why_needed(home, time.time())
        if why is None:
            return dg.SkipReason("No keeper is needed.")
        keeping.start(home)
        said = f"A keeper was started, because there is something to do: {why}. Its log: {keeping.log_of(home)}"
        context.log.info(said)
        return dg.SkipReason(said)

    return evaluate
