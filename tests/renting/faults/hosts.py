"""What goes wrong with the hosts themselves.

Here the hosts are scripted and the providers are not. With real hosts behind sshd the same is tested where hosts are
managed, and in the way from an offer to a trained checkpoint.
"""

from __future__ import annotations

from tests.renting.fakes.machines import NoFleet, Timing
from tests.renting.fakes.script import Fault, always
from tests.renting.faults.stage import Stage, case

BOOT, REACH, PREPARE = 1200, 600, 1800
"""Seconds: the limits of an order that says nothing else."""


@case(12)
def booting_for_ever(stage: Stage) -> None:
    chain = stage.chain(timing=Timing(boot=1e9))
    chain.order(hours=8)
    chain.settle()
    assert "did not boot within 20 min" in chain.said()
    assert chain.clock.now() < chain.fake.started + BOOT + 400


@case(12)
def preparing_for_ever(stage: Stage) -> None:
    chain = stage.chain(hosts=stage.hosts(ready_after=None))
    chain.order(hours=8, managed=True)
    chain.until("fit")
    began = chain.clock.now()
    chain.settle()
    assert "was not ready in time" in chain.said() and chain.clock.now() < began + PREPARE + 400


@case(13)
def active_without_an_address(stage: Stage) -> None:
    chain = stage.chain(Fault("list", "no ip", between=(0, 600)), timing=Timing(address_after=200))
    chain.order(hours=1)
    chain.until("ready")
    assert chain.clock.now() >= chain.fake.started + 380 and chain.only().address
    chain.settle()


@case(13)
def active_and_never_an_address(stage: Stage) -> None:
    chain = stage.chain(always("list", "no ip"))
    chain.order(hours=8)
    chain.settle()
    assert "ready" not in [event.state for event in chain.only().events]
    assert chain.clock.now() < chain.fake.started + BOOT + 400


@case(13)
def sshd_comes_late(stage: Stage) -> None:
    chain = stage.chain(hosts=stage.hosts(reachable_after=90))
    chain.order(hours=1, managed=True)
    rental = chain.until("ready")
    reached = next(event.at for event in rental.events if event.state == "reachable")
    assert rental.addressed is not None and 90 <= reached - rental.addressed <= 110
    chain.settle()


@case(13, each=["never", "wrong user"])
def sshd_never_lets_us_in(stage: Stage, how: str) -> None:
    hosts = stage.hosts(reachable_after=None) if how == "never" else stage.hosts(unfit={"reachable": "no such user"})
    chain = stage.chain(hosts=hosts)
    chain.order(hours=8, managed=True)
    chain.settle()
    assert "unfit" in chain.said() and chain.clock.now() < chain.fake.started + 180 + REACH + 400


@case(14, kinds=["lambda", "gce"])
def unhealthy_with_a_job_at_work(stage: Stage) -> None:
    """As long as the host gives a sign of life, its job goes on; without one for 15 minutes it ends."""
    hosts = stage.hosts(runs={"run": 1})
    chain = stage.chain(hosts=hosts)
    chain.order(hours=8, managed=True)
    chain.until("ready")
    (machine,) = chain.fake.machines
    for minute in range(40):
        machine.unwell = minute % 3 == 0 or minute > 20
        chain.turn(60)
        assert chain.only().state == "ready"
    hosts.silent_since = chain.clock.now()
    chain.run(lambda: chain.only().state != "ready", 1000)
    assert 880 <= chain.clock.now() - hosts.silent_since <= 960 and "no sign of life" in chain.said()
    chain.settle()


@case(15)
def the_host_vanishes(stage: Stage) -> None:
    """Without a word, as on a marketplace: its bill ends where it ended."""
    hosts = stage.hosts(runs={"run": 1})
    chain = stage.chain(hosts=hosts)
    chain.order(hours=8, managed=True)
    chain.until("ready")
    chain.turn(333)
    chain.fake.vanish(chain.fake.machines[0])
    hosts.silent_since = chain.clock.now()
    chain.settle(limit=2400)
    assert "lost" in chain.said() and hosts.forgotten


@case(15, kinds=["lambda"])
def the_host_is_preempted(stage: Stage) -> None:
    chain = stage.chain()
    chain.order(hours=8)
    chain.until("ready")
    (machine,) = chain.fake.machines
    chain.fake.preempted.add(machine.id)
    chain.fake.vanish(machine)
    machine.timing = Timing(listed_after_end=0)
    chain.settle(limit=1800)


@case(16, each=["the driver is 535, and 580 is needed", "nvidia-smi is missing"])
def unfit(stage: Stage, why: str) -> None:
    """Ended within five minutes after it was reached, and nothing was installed."""
    chain = stage.chain(hosts=stage.hosts(unfit={"fit": why}))
    chain.order(hours=8, managed=True)
    rental = chain.until("ending")
    reached = next(event.at for event in rental.events if event.state == "reachable")
    assert why in chain.said() and rental.since - reached < 300
    assert "fit" not in [event.state for event in rental.events]
    chain.settle()


@case(16)
def fit_and_broken_later(stage: Stage) -> None:
    """An upgrade took the driver away: no job gets on, and the host says so itself."""
    chain = stage.chain(hosts=stage.hosts(unfit={"ready": "driver and library do not match"}))
    chain.order(hours=8, managed=True)
    chain.settle()
    assert "do not match" in chain.said()


@case(17)
def only_python_3_10(stage: Stage) -> None:
    chain = stage.chain(hosts=stage.hosts(unfit={"ready": "Python 3.11 or newer is needed, and 3.10 is there"}))
    chain.order(hours=8, managed=True)
    chain.settle()
    assert "3.10" in chain.said() and chain.clock.now() < chain.fake.started + 900


@case(18)
def an_address_that_was_somebody_elses(stage: Stage) -> None:
    """Two rentals in turn at one address: what is known of the first is forgotten before the second is reached."""
    hosts = stage.hosts()
    chain = stage.chain(hosts=hosts, fleet=NoFleet(reuse=True))
    for _ in range(2):
        chain.order(hours=0.4, managed=True)
        chain.settle()
    first, second = chain.rentals()
    assert first.address == second.address is not None and first.id in hosts.forgotten
    assert hosts.pinned[str(first.address)] == [first.id, second.id]
