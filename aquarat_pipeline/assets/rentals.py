"""The asset `rented_hosts`: what is rented now, as observations. Nothing makes it, and nothing here asks a cloud."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from aquarat_core.durations import duration
from aquarat_pipeline.checks.check import Finding
from aquarat_pipeline.checks.rentals import CHECKS
from aquarat_pipeline.renting import costs
from aquarat_pipeline.renting.clouds.cloud import KINDS
from aquarat_pipeline.renting.rental import Rental
from aquarat_pipeline.renting.watching import Known

KEY = dg.AssetKey("rented_hosts")
Look = Callable[[dg.DagsterInstance], Known]


def asset() -> dg.AssetSpec:
    """The asset as Dagster declares it: one that others make."""
    return dg.AssetSpec(
        KEY,
        description=(
            "The hosts that are rented from clouds, with an observation for each change of a rental. Its cost is our "
            "own count. `aquarat hosts rentals` shows the same at any time, and `aquarat hosts terminate` ends one."
        ),
        group_name="hosts",
        owners=["team:aquarat"],
    )


def checks(look: Look) -> dg.AssetChecksDefinition:
    """The checks, which can also be evaluated from the asset's page."""
    specs = [dg.AssetCheckSpec(check.name, asset=KEY, description=check.description) for check in CHECKS]

    @dg.multi_asset_check(name="rented_hosts_checks", specs=specs, can_subset=True)
    def evaluate(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        known = look(context.instance)
        wanted = {key.name for key in context.selected_asset_check_keys}
        for check in CHECKS:
            if check.name in wanted:
                finding = check.evaluate(known)
                yield dg.AssetCheckResult(
                    check_name=check.name,
                    asset_key=KEY,
                    passed=finding.passed,
                    severity=finding.severity,
                    description=finding.said,
                    metadata=finding.facts,
                )

    return evaluate


def evaluation(name: str, finding: Finding) -> dg.AssetCheckEvaluation:
    """A check's outcome, outside of any run."""
    return dg.AssetCheckEvaluation(
        asset_key=KEY,
        check_name=name,
        passed=finding.passed,
        severity=finding.severity,
        description=finding.said,
        metadata=finding.facts,
    )


def observations(rental: Rental, seen: int, known: Known) -> Iterator[dg.AssetObservation]:
    """One for each change of state or of the end after the first `seen` events."""
    for number in range(seen + 1, len(rental.events) + 1):
        before = rental.events[number - 2].state if number > 1 else "intended"
        event = rental.events[number - 1]
        if event.state != before or event.end is not None:
            yield observation(Rental.of(rental.order, rental.events[:number]), known)


def observation(rental: Rental, known: Known) -> dg.AssetObservation:
    """What is known of a rental after its last event, and what else is open now."""
    order, event = rental.order, rental.events[-1] if rental.events else None
    at = event.at if event else order.ordered
    kind = KINDS[order.account.cloud]
    facts: dict[str, Any] = {
        "rental": rental.id,
        "label": order.label,
        "state": rental.state,
        "why": event.why if event else "",
        "pool": order.pool or "by hand",
        "run": dg.MetadataValue.dagster_run(order.run) if order.run else "",
        "account": order.account.name,
        "type": order.offer.type,
        "region": order.offer.region,
        "gpus": order.offer.gpus,
        "price_per_hour_usd": rental.hourly.micros / 1_000_000,
        "age": duration(at - order.ordered),
        "ends": dg.MetadataValue.timestamp(rental.end),
        "cost_usd": costs.accrued(rental, at).micros / 1_000_000,
        "instance": rental.instance_id or "",
        "console": dg.MetadataValue.url(kind.console),
        "open_now": dg.MetadataValue.table([_row(one, known.now) for one in known.open], schema=_SCHEMA),
    }
    said = f"{rental.id} ({order.offer.type}{f', {order.label}' if order.label else ''}) is {rental.state}"
    return dg.AssetObservation(
        KEY,
        description=f"{said}: {event.why}" if event and event.why else said,
        metadata={name: value for name, value in facts.items() if value != ""},
        tags={"state": rental.state},
    )


_SCHEMA = dg.TableSchema(
    [dg.TableColumn(name) for name in ("rental", "label", "state", "pool", "type", "price", "age", "cost")]
)


def _row(rental: Rental, now: float) -> dg.TableRecord:
    order = rental.order
    return dg.TableRecord(
        {
            "rental": rental.id,
            "label": order.label,
            "state": rental.state,
            "pool": order.pool or "by hand",
            "type": order.offer.type,
            "price": f"{rental.hourly} an hour",
            "age": duration(now - order.ordered),
            "cost": str(costs.accrued(rental, now)),
        }
    )
