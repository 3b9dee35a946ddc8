"""What steps of runs have cost: all attempts, on own and rented hosts, in parts whose sum is the whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquarat_pipeline.hosts.host import Host, RentedHost
from aquarat_pipeline.jobs.spending import Spent, spent_by_step, tag_run
from aquarat_pipeline.jobs.usage import HostUse, UsageRecord, Use, uses
from aquarat_pipeline.renting.costs import Piece, Taken, accrued, pieces
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.money import ZERO, Money
from aquarat_pipeline.renting.rental import Event, Rental
from aquarat_pipeline.tags import COST_TAG, RENTAL_TAG, USED_TAG
from tests.renting.world import START, World


def total(amounts: Iterable[Money]) -> Money:
    return sum(amounts, ZERO)


# --- the parts of one rental ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Rental:
    return World(tmp_path_factory.mktemp("ledger")).order(hours=10)


def rental(order: Rental, ended: float | None = None) -> Rental:
    facts = {"asking": {}, "granted": {"instance_id": "i", "price_micros": 1_290_007}}
    events = [Event(state=state, at=START, **more) for state, more in facts.items()]
    if ended is not None:
        events += [Event(state="ending", at=ended), Event(state="gone", at=ended, ended=ended)]
    return Rental.of(order.order, events)


def sums(found: Iterable[Piece]) -> dict[str | None, int]:
    by_key: dict[str | None, int] = {}
    for piece in found:
        by_key[piece.key] = by_key.get(piece.key, 0) + piece.amount.micros
    return by_key


def test_two_steps_with_a_pause_and_the_rest(order: Rental) -> None:
    taken = [Taken("a", START + 600, START + 1200, 8), Taken("b", START + 1800, START + 3600, 8)]
    found = sums(pieces(rental(order), taken, START + 3600))
    # Up to the ends of the four times: 215,002, 430,003, 645,004 and 1,290,007 micro-dollars, each rounded up.
    assert found == {None: 215_002 + 215_001, "a": 215_001, "b": 645_003}


def test_those_who_share_a_time_share_its_cost_by_their_gpus(order: Rental) -> None:
    taken = [Taken("a", START, START + 3600, 6), Taken("b", START, START + 3600, 2)]
    found = sums(pieces(rental(order), taken, START + 3600))
    assert found == {"a": 1_290_007 * 6 // 8, "b": 1_290_007 - 1_290_007 * 6 // 8}


times = st.floats(-100, 40_000).map(lambda x: START + round(x, 3))
takings = st.lists(
    st.tuples(st.sampled_from("abcd"), times, times, st.integers(0, 8)).map(
        lambda one: Taken(one[0], min(one[1:3]), max(one[1:3]), one[3])
    ),
    max_size=8,
)


@given(taken=takings, until=times, marks=st.lists(times, max_size=5), ended=st.none() | times)
def test_the_parts_are_the_whole_to_the_micro_dollar(
    order: Rental, taken: list[Taken], until: float, marks: list[float], ended: float | None
) -> None:
    ended = None if ended is None else max(ended, START)
    one = rental(order, ended)
    found = pieces(one, taken, until, marks)
    assert total(piece.amount for piece in found) == accrued(one, until)
    assert all(piece.amount >= ZERO for piece in found)


@given(taken=takings, until=times, later=times)
def test_what_was_counted_stays_when_time_passes(order: Rental, taken: list[Taken], until: float, later: float) -> None:
    until, later = sorted((until, later))
    one = rental(order)
    before = sums(pieces(one, taken, until))
    assert before == sums(piece for piece in pieces(one, taken, later, [until]) if piece.ended <= until)


# --- what is recorded -----------------------------------------------------------------------------------------------


@pytest.fixture
def run_id(instance: dg.DagsterInstance) -> str:
    return new_run(instance)


def new_run(instance: dg.DagsterInstance) -> str:
    return instance.create_run_for_job(dg.job(name="nothing")(lambda: None)).run_id


def spent(instance: dg.DagsterInstance, run_id: str, now: float = START + 1e6) -> dict[str, Spent]:
    return spent_by_step(instance, run_id, now)


def tags(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return dict(run.tags)


class Clock:
    def __init__(self) -> None:
        self.seconds = START

    def __call__(self) -> float:
        return self.seconds


def test_attempts_that_were_lost_count(instance: dg.DagsterInstance, run_id: str) -> None:
    clock = Clock()
    record = UsageRecord(instance, run_id, "sft_checkpoint", clock)
    a, b = (Host(name=name, address=name, gpus=8, price_per_hour=36) for name in "ab")
    record.begin(1, [a], lambda host: host.gpus)
    clock.seconds += 100
    assert record.end() and not record.end()
    clock.seconds += 1000  # it waits for another host
    record.begin(2, [a, b], lambda host: host.gpus)
    clock.seconds += 200
    # The worker dies, and the next one finds the attempt again.
    again = UsageRecord(instance, run_id, "sft_checkpoint", clock)
    again.begin(2, [a, b], lambda host: host.gpus)
    clock.seconds += 100
    again.end()
    found = spent(instance, run_id)["sft_checkpoint"]
    assert (found.seconds, found.hosts, found.gpu_hours) == (400, ("a", "b"), (8 * 100 + 16 * 300) / 3600)
    assert found.cost == Money.dollars(1) + Money.dollars(3) * 2 and found.overhead == ZERO
    tag_run(instance, run_id, clock.seconds)
    assert tags(instance, run_id)[COST_TAG] == "7.000000" and RENTAL_TAG not in tags(instance, run_id)


def test_an_attempt_that_nobody_ended_lasts_until_the_next(instance: dg.DagsterInstance, run_id: str) -> None:
    clock = Clock()
    record = UsageRecord(instance, run_id, "step", clock)
    host = Host(name="a", address="a", price_per_hour=36)
    record.begin(1, [host], lambda _: 0)
    assert spent(instance, run_id, START + 50)["step"].seconds == 50
    clock.seconds += 300
    record.begin(2, [host], lambda _: 0)
    assert [use.ended for use in uses(tags(instance, run_id), "step")] == [START + 300, None]


@pytest.mark.parametrize(
    ("host", "gpus", "micros"),
    [
        ({"gpus": 8, "price_per_hour": 31.92}, 8, 31_920_000),
        ({"gpus": 8, "price_per_hour": 31.92}, 1, 31_920_000),  # nobody else can have the rest
        ({"gpus": 8, "price_per_hour": 31.92, "max_leases": 8}, 1, 3_990_000),
        ({"gpus": 3, "price_per_hour": 1, "max_leases": 3}, 1, 333_334),
        ({"gpus": 0, "price_per_hour": 2, "max_leases": 4}, 0, 500_000),
        ({"gpus": 8}, 8, 0),
    ],
)
def test_a_host_with_room_for_several_is_paid_in_part(host: dict, gpus: int, micros: int) -> None:
    assert HostUse.of(Host(name="a", address="a", **host), gpus).price_micros == micros


def test_a_tag_that_somebody_changed_counts_for_nothing(instance: dg.DagsterInstance, run_id: str) -> None:
    for text in ("", "[{}]", "3", "nonsense"):
        instance.add_run_tags(run_id, {USED_TAG + "step": text})
        assert spent(instance, run_id) == {}
    assert spent(instance, "no such run") == {}


def test_without_a_price_there_is_no_cost(instance: dg.DagsterInstance, run_id: str) -> None:
    record = UsageRecord(instance, run_id, "step", Clock())
    record.begin(1, [Host(name="a", address="a", gpus=1)], lambda _: 1)
    record.end()
    assert not spent(instance, run_id)["step"].priced
    tag_run(instance, run_id, START)
    assert COST_TAG not in tags(instance, run_id)


# --- rented hosts ---------------------------------------------------------------------------------------------------


class Story:
    """Rentals of one home whose hosts are used by steps of runs."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.home = Path(instance.root_directory)
        self.world = World(self.home)

    def rent(self, run: str | None, seconds: float = 600) -> Rental:
        """Ordered for a run, and ready after so long."""
        made = self.world.order(hours=10, run=run)
        until = self.world.seconds + seconds
        self.world.run(lambda: self.world.seconds >= until)
        return self.world.ledger.read(made.id)

    def use(self, rental: Rental, run: str, step: str, seconds: float) -> None:
        folder = Ledger(self.home).folder(rental.id)
        host = RentedHost.model_validate(
            {"name": f"r-{rental.id}", "folder": folder, "address": "10.0.0.1", "user": "ubuntu", "gpus": 8,
             "expires": rental.order.last_end, "price_per_hour": 1.29}
        )  # fmt: skip
        record = UsageRecord(self.instance, run, step, self.world.now)
        record.begin(1, [host], lambda one: one.gpus)
        self._seen(rental, {run: 8})
        self.wait(seconds)
        self._seen(rental, {})
        record.end()

    def _seen(self, rental: Rental, runs: dict[str, int]) -> None:
        """The keeper notes who works there."""
        now = self.world.ledger.read(rental.id)
        self.world.ledger.append(now, now.state, self.world.now(), runs=runs)

    def wait(self, seconds: float) -> None:
        until = self.world.seconds + seconds
        self.world.run(lambda: self.world.seconds >= until)

    def cost_of(self, rental: Rental) -> Money:
        return accrued(self.world.ledger.read(rental.id), self.world.now())

    def spent(self, run: str) -> dict[str, Spent]:
        return spent_by_step(self.instance, run, self.world.now())


def test_boot_pauses_and_steps_of_a_run_are_all_that_its_rental_cost(instance: dg.DagsterInstance, run_id: str) -> None:
    story = Story(instance)
    rented = story.rent(run_id, 600)
    story.use(rented, run_id, "sft_checkpoint", 1200)
    after_first = story.spent(run_id)["sft_checkpoint"]
    story.wait(300)
    story.use(rented, run_id, "rl_checkpoint", 2400)
    found = story.spent(run_id)
    assert list(found) == ["sft_checkpoint", "rl_checkpoint"]
    assert found["sft_checkpoint"].cost == after_first.cost and found["sft_checkpoint"].overhead == after_first.overhead
    assert total(one.cost + one.overhead for one in found.values()) == story.cost_of(rented)
    assert abs(found["rl_checkpoint"].cost.micros - 860_000) <= 21_500
    assert abs(found["rl_checkpoint"].overhead.micros - 107_500) <= 21_500, "the pause between the two"
    assert abs(found["sft_checkpoint"].overhead.micros - 215_000) <= 43_000, "the boot"
    tag_run(instance, run_id, story.world.now())
    held = tags(instance, run_id)
    assert held[RENTAL_TAG] == rented.id
    assert held[COST_TAG] == f"{story.cost_of(rented).micros / 1e6:.6f}"


def test_a_rental_that_was_never_fit_is_overhead_of_the_run_it_was_for(
    instance: dg.DagsterInstance, run_id: str
) -> None:
    story = Story(instance)
    useless = story.rent(run_id, 300)
    story.world.ledger.append(story.world.ledger.read(useless.id), "ending", story.world.now(), "unfit")
    used = story.rent(run_id, 600)
    story.use(used, run_id, "step", 600)
    (found,) = story.spent(run_id).values()
    assert found.cost + found.overhead == story.cost_of(useless) + story.cost_of(used)
    assert found.rentals == (used.id,)


def test_another_runs_time_on_it_is_that_runs_cost_and_nobodys_overhead(
    instance: dg.DagsterInstance, run_id: str
) -> None:
    story, other = Story(instance), new_run(instance)
    rented = story.rent(run_id, 600)
    story.use(rented, run_id, "step", 600)
    story.use(rented, other, "step", 600)
    story.use(rented, run_id, "next", 600)
    mine, theirs = story.spent(run_id), story.spent(other)
    assert theirs["step"].overhead == ZERO and theirs["step"].cost > ZERO
    parts = [*mine.values(), *theirs.values()]
    assert total(one.cost + one.overhead for one in parts) == story.cost_of(rented)


def test_a_rental_by_hand_leaves_its_idle_time_to_nobody(instance: dg.DagsterInstance, run_id: str) -> None:
    story = Story(instance)
    rented = story.rent(None, 600)
    story.use(rented, run_id, "step", 600)
    (found,) = story.spent(run_id).values()
    assert found.overhead == ZERO and ZERO < found.cost < story.cost_of(rented)


def test_a_rental_that_the_ledger_lacks_costs_what_the_inventory_says(
    instance: dg.DagsterInstance, run_id: str
) -> None:
    use = Use(attempt=1, began=START, ended=START + 3600, hosts=(
        HostUse(host="r", gpus=1, price_micros=2_000_000, rental="lostlost"),
    ))  # fmt: skip
    instance.add_run_tags(run_id, {USED_TAG + "step": f"[{use.model_dump_json()}]"})
    assert spent(instance, run_id)["step"].cost == Money.dollars(2)
