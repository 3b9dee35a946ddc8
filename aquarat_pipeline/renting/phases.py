"""What a rental is doing now, in words."""

from __future__ import annotations

from aquarat_pipeline.renting.rental import Rental


def phase(rental: Rental, now: float) -> str:
    """Such as `preparing 3 min`, `ready, 2 runs` or `ready, idle 4 min`."""
    since = rental.since
    match rental.state:
        case "intended":
            doing = "not asked for yet,"
        case "unclear":
            doing = "looked for,"
        case "granted" | "booting":
            began = rental.since if rental.asked is None else rental.asked
            doing, since = ("booting", began) if rental.addressed is None else ("connecting", rental.addressed)
        case "reachable":
            doing = "examined,"
        case "fit":
            doing = "preparing"
        case "ready":
            if not rental.order.managed:
                return "ready"
            if rental.runs:
                return f"ready, {len(rental.runs)} run{'s' if len(rental.runs) > 1 else ''}"
            doing, since = "ready, idle", rental.idle_since
        case "draining" | "ending":
            doing = rental.state
        case _:
            return rental.state
    return f"{doing} {max(now - since, 0) / 60:.0f} min"
