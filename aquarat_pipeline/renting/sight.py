"""What a list of instances shows of one rental, and of rentals that no ledger knows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from aquarat_pipeline.renting import names
from aquarat_pipeline.renting.clouds.model import Instance, Listing, Unreadable
from aquarat_pipeline.renting.rental import Rental


@dataclass(frozen=True, slots=True)
class Sight:
    """One rental in a list."""

    at: float
    instance: Instance | None
    """The rental's instance, if it can be read. It may have ended."""
    doubles: tuple[str, ...]
    """Ids of further instances of its name that have not ended."""
    missing: bool
    """It is certain that this list does not have it."""
    listed: frozenset[str] = frozenset()
    """Ids of all instances of its name that have not ended."""
    complete: bool = False
    """Whether what is not in `listed` has ended, or is too young for lists."""
    suspects: tuple[str, ...] = ()
    """Ids of nameless instances that may be it: of its type and region, with our key. They cannot be ended for that."""

    @property
    def alive(self) -> bool:
        """There is an instance that has not ended."""
        return self.instance is not None and self.instance.state != "ended"


def sight(rental: Rental, listing: Listing) -> Sight:
    """The instance is one that has not ended, if there is any, and then the one whose id is known."""
    named = [i for i in listing.instances if i.name == rental.name or i.id == rental.instance_id]
    chosen = min(named, key=lambda i: (i.state == "ended", i.id != rental.instance_id, i.id), default=None)
    unreadable = [u for u in listing.unreadable if u.name == rental.name or (u.id and u.id == rental.instance_id)]
    doubles = [i.id for i in named if chosen and i.id != chosen.id and i.state not in ("ended", "ending")]
    doubles += [u.id for u in unreadable if u.id and chosen and u.id != chosen.id]
    suspects = [i.id for i in listing.instances if rental.instance_id is None and _may_be(rental, i)]
    missing = listing.complete and not named and not unreadable
    alive = [i.id for i in named if i.state != "ended"] + [u.id for u in unreadable if u.id]
    return Sight(
        listing.at, chosen, tuple(doubles), missing, frozenset(alive), listing.complete, suspects=tuple(suspects)
    )


def _may_be(rental: Rental, instance: Instance) -> bool:
    offer = rental.order.offer
    alike = (instance.type, instance.region) == (offer.type, offer.region)
    return not instance.name and instance.state != "ended" and alike and rental.ssh_key in instance.ssh_key_names


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a list that has an id and a name of ours."""

    id: str
    name: names.RentalName
    entry: Instance | Unreadable


def ours(listing: Listing, installations: Collection[str]) -> list[Listed]:
    """Instances of these installations that have not ended, also those that cannot be read otherwise."""
    found: list[Listed] = []
    for entry in (*listing.instances, *listing.unreadable):
        name = names.parse(entry.name)
        ended = isinstance(entry, Instance) and entry.state == "ended"
        if name is not None and name.installation in installations and entry.id and not ended:
            found.append(Listed(entry.id, name, entry))
    return found
