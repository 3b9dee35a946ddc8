"""From a run that waits to the proof that its rented host is gone: real Dagster, ssh and torchrun, fake money."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aquarat_pipeline.hosts.inventory import read_inventory
from aquarat_pipeline.renting.rental import Rental
from tests.launching.cluster_fixture import assert_nothing_left, assert_survived
from tests.launching.network import why_not
from tests.renting.chain import ASSET, POOL, Chain, chain_in, times
from tests.renting.fleet import Guest

pytestmark = pytest.mark.slow
STEPS = 4


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    if why := why_not():
        pytest.skip(why)
    with chain_in(tmp_path / "c") as made:
        yield made


def waiting_run(chain: Chain, **orders: float) -> str:
    """A run that no host can serve, while a keeper is at work."""
    chain.start_keeper()
    chain.cluster.order(ASSET, steps=STEPS, seconds=0.1, **orders)
    return chain.cluster.launch(ASSET, tags={"aquarat/pool": POOL})


def ended_because(rental: Rental) -> str:
    return next(event.why for event in rental.events if event.state == "ending")


def succeeds(chain: Chain, run_id: str, trainers: int = 1) -> None:
    """One checkpoint, each step made, by that many trainers one after the other."""
    chain.wait(lambda: chain.cluster.run(run_id).is_finished, 180, "the run ends")
    found = assert_survived(chain.cluster, run_id, ASSET, STEPS)
    assert found["trainers"] == trainers and found["redone"] <= trainers - 1


def test_from_a_waiting_run_to_the_proof_that_its_host_is_gone(chain: Chain) -> None:
    stranger = chain.fake.order("somebody-elses-box")
    run_id = waiting_run(chain)
    succeeds(chain, run_id)
    (rental,) = chain.until_gone()
    assert rental.order.run == run_id and rental.order.pool == POOL
    assert [event.runs for event in rental.events if event.runs] == [{run_id: 1}]
    assert read_inventory(chain.home).hosts[0].name == "one" and len(read_inventory(chain.home).hosts) == 1
    assert stranger.id in chain.fleet.up
    assert_nothing_left(chain.cluster, run_id)
    chain.check()
    print({name: f"{seconds:.1f} s" for name, seconds in times(chain, rental, run_id).items()})


def test_a_run_goes_on_at_a_second_rental_when_the_first_vanishes(chain: Chain) -> None:
    run_id = waiting_run(chain, hold=2)
    chain.cluster.wait_for_step(run_id, ASSET, 2, seconds=180)
    (first,) = chain.ours()
    chain.fake.vanish(first)
    # The keeper that goes on is not the one that rented it.
    chain.start_keeper()
    chain.kill_keeper()
    chain.wait(lambda: len(chain.ours()) == 2, 120, "another is rented")
    chain.cluster.release(ASSET)
    succeeds(chain, run_id, trainers=2)
    chain.wait(lambda: not chain.fake.alive(), 120, "the second is ended")
    lost, second = chain.rentals()
    assert any(event.why.startswith("lost: no sign of life") for event in lost.events), chain.story()
    assert lost.state == "ending" and lost.provable, "its absence is believed once lists are reliable"
    chain.wait(lambda: chain.ledger.read(second.id).state == "gone", 60, "the second is gone by proof")


def test_unfit_hosts_are_ended_and_the_next_offers_are_taken(chain: Chain) -> None:
    """The first has an old driver, the second shows a key that nobody ordered."""
    chain.configure(("gpu_1x_rtx6000", "gpu_1x_a10"))
    usual = chain.fleet.usual
    chain.fleet.next.extend([Guest(driver="470.57.02", env=usual.env), Guest(heeds_user_data=False, env=usual.env)])
    run_id = waiting_run(chain)
    succeeds(chain, run_id)
    old, strange, good = chain.until_gone()
    assert [rental.order.offer.type for rental in (old, strange, good)] == [
        "gpu_1x_rtx6000",
        "gpu_1x_a10",
        "gpu_1x_a10",
    ]
    assert "driver 470.57.02 is too old" in ended_because(old), chain.story()
    assert "host key" in ended_because(strange), chain.story()
    assert strange.order.offer.id != good.order.offer.id, "its offer rests"
    chain.check()
