"""What goes wrong when an instance is to end."""

from __future__ import annotations

from typing import Any

from aquarat_pipeline.renting.alarms import alarms
from aquarat_pipeline.renting.requests import ask_end
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Effect, Fault, times
from tests.renting.faults.stage import KEEPER_BOUND, REAPER_SECONDS, Stage, case

SIX_HOURS = 6 * 3600


def _pauses(count: int) -> float:
    """Seconds from the first request to the one after so many."""
    return sum(min(30 * 2**n, 300) for n in range(count))


@case(5, each=[1, 5])
def accepted_without_effect(stage: Stage, count: int) -> None:
    chain = stage.chain(times("terminate", "without effect", count))
    chain.order()
    chain.settle()
    stage.allowed = _pauses(count)
    # Google ends an instance by itself, whatever becomes of requests.
    assert sum(verb == "terminate" for verb, _ in chain.fake.requests) > count or stage.kind == "gce"


@case(6, each=["500", "then 500", "then cut", "429", "429 with Retry-After", "html 200", "then html"])
def an_end_that_is_not_answered(stage: Stage, effect: Effect) -> None:
    chain = stage.chain(times("terminate", effect, 3), timing=Timing(listed_after_end=0))
    chain.order()
    chain.settle()
    stage.allowed = _pauses(3)


@case(6, kinds=["lambda"], each=["unknown code", "provider error"])
def an_end_that_is_answered_with_riddles(stage: Stage, effect: Effect) -> None:
    chain = stage.chain(times("terminate", effect, 2))
    chain.order()
    chain.settle()
    stage.allowed = _pauses(2)


@case(7)
def a_404_of_a_young_instance(stage: Stage) -> None:
    """It is ended at once, is not found, is not listed, and runs all the same."""
    chain = stage.chain(timing=Timing(missing_when_young=120, list_lag=120, listed_after_end=0))
    rental = chain.order()
    chain.until("granted")
    ask_end(chain.ledger, chain.ledger.read(rental.id), "now", chain.now())
    chain.settle()
    answers = [event.answer for event in chain.only().events if event.answer]
    assert answers[0] == "gone" and answers[-1] == "accepted" and len(chain.fake.machines) == 1
    stage.allowed = 120 + _pauses(3)


@case(8, 11)
def an_end_that_fails_for_six_hours(stage: Stage) -> None:
    """Warned of after 5 minutes and 15, never given up, and paid for to the end."""
    chain = stage.chain(Fault("terminate", "500", between=(0, SIX_HOURS + 900)))
    chain.order(hours=0.25)
    rental = chain.until("ending")
    began = rental.since
    heard: dict[int, list[str]] = {}
    for minutes in (4, 6, 14, 16, 120, 359):
        chain.run(lambda minutes=minutes: chain.now() >= began + 60 * minutes, SIX_HOURS, seconds=60)
        heard[minutes] = alarms(chain.rentals(), chain.now())
    assert not heard[4] and heard[6] and "in the dashboard" not in heard[14][0]
    assert all(f"end instance {rental.instance_id}" in heard[minutes][0] for minutes in (16, 120, 359))
    before = sum(verb == "terminate" for verb, _ in chain.fake.requests)
    assert before >= 60
    chain.settle(limit=2 * 3600, seconds=20)
    stage.allowed = SIX_HOURS
    assert chain.clock.now() < chain.fake.started + SIX_HOURS + 900 + 300 + 2 * KEEPER_BOUND


@case(11)
def a_job_that_never_ends(stage: Stage) -> None:
    """Its rental does: at its time, with the jobs stopped a minute before."""
    hosts = stage.hosts(runs={"run": 1})
    chain = stage.chain(hosts=hosts)
    rental = chain.order(hours=1, managed=True)
    chain.settle()
    assert hosts.stopped and [one for one in hosts.drained if one == rental.id]
    assert chain.only().events[-1].at < rental.end + 300


@case(11)
def a_host_without_a_job(stage: Stage) -> None:
    """It is idle by its own account, whatever waits in the queue."""
    chain = stage.chain(hosts=stage.hosts())
    chain.order(hours=12, managed=True)
    ready = chain.until("ready")
    chain.settle(limit=1800)
    assert "it had no job for 10 min" in chain.said()
    idle = next(event.at for event in chain.only().events if event.state == "draining") - ready.since
    assert 600 <= idle <= 600 + 20


@case(25)
def an_end_that_is_refused_for_an_hour(stage: Stage) -> None:
    chain = stage.chain(timing=Timing(earliest_end=3600))
    rental = chain.order(hours=0.2)
    chain.settle()
    assert "refused" in [event.answer for event in chain.only().events] or stage.kind != "lambda"
    stage.allowed = 3600 - 720
    assert chain.only().ended is not None and rental.end < chain.fake.started + 3600


@case(28)
def the_key_is_revoked_while_a_host_runs(stage: Stage) -> None:
    """Nobody can end it: the keeper names it, and where. It goes on as soon as there is a key."""
    chain = stage.chain()
    chain.order(hours=0.5)
    rental = chain.until("ready")
    chain.fake.keys_revoked_at = chain.clock.now()
    chain.run(lambda: chain.clock.now() > chain.fake.started + 3600)
    assert chain.only().state == "ending" and (chain.alive() or stage.kind == "gce"), "Google ends its own"
    told = next(note for note in chain.notes if "nobody can end" in note)
    assert rental.name in told and str(rental.instance_id) in told and "https://" in told
    chain.fake.keys_revoked_at = None
    chain.settle()
    stage.allowed = 1800


@case(29, each=["503", "cut"])
def the_provider_is_down_for_an_hour(stage: Stage, effect: Effect) -> None:
    """No job is disturbed; what is over ends within the next minutes after its return."""
    hosts = stage.hosts(runs={"run": 1})
    verbs: tuple[Any, ...] = ("offers", "rent", "list", "terminate", "keys", "balance")
    chain = stage.chain(*(Fault(verb, effect, between=(900, 4500)) for verb in verbs), hosts=hosts)
    chain.order(hours=1, managed=True)
    chain.until("ready")
    while chain.clock.now() < chain.fake.started + 3500:
        chain.turn()
        assert chain.only().state in ("ready", "draining") and not hosts.stopped
    chain.settle()
    stage.allowed = 900
    asked = [event.at for event in chain.only().events if event.answer in ("accepted", "gone")]
    assert asked[0] <= chain.fake.started + 4500 + 60


@case(30)
def nobody_but_the_other_reaper(stage: Stage) -> None:
    """Keeper, ledger and daemon are gone for good: eleven minutes after its end the instance has been asked to end."""
    from aquarat_pipeline.renting.reaper import reap

    chain = stage.chain()
    rental = chain.order(hours=1)
    chain.until("ready")
    mine = [chain.ledger.installation()]
    chain.clock.advance(rental.order.last_end - chain.clock.now() - 17)
    assert chain.alive()
    while chain.alive():
        assert chain.clock.now() <= rental.order.last_end + 11 * 60
        reap(chain.cloud, mine, chain.clock.now())
        chain.clock.advance(REAPER_SECONDS)
    (machine,) = chain.fake.machines
    stopped = machine.end_asked if machine.ends_itself is None else machine.ends_itself
    assert stopped is not None and stopped <= rental.order.last_end + 11 * 60
    stage.allowed = 11 * 60
    # Whoever comes back finds it ended.
    chain.settle()
