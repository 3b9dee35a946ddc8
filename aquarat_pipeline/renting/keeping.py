"""The keeper as a process of this machine: one for a DAGSTER_HOME, which goes on when whoever started it ends.

Run as a program with DAGSTER_HOME set, it keeps rentals until there is nothing more to look for.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from aquarat_core.errors import UserError
from aquarat_core.plain_text import one_line
from aquarat_pipeline.home import dagster_home
from aquarat_pipeline.hosts.queueing import queued, waiting_steps
from aquarat_pipeline.locks import HeldError, held, is_held
from aquarat_pipeline.renting.clouds.cloud import Account, Cloud, Surroundings, connect, this_machine
from aquarat_pipeline.renting.config import RentConfig, RentConfigError, read_config
from aquarat_pipeline.renting.keeper import WATCH_SECONDS, Keeper, SshKey
from aquarat_pipeline.renting.ledger import Ledger, make_folder
from aquarat_pipeline.renting.managed.acceptance import why_not_here
from aquarat_pipeline.renting.managed.managing import ManagedHosts
from aquarat_pipeline.renting.ordering.demand import Demand

log = logging.getLogger("aquarat.keeper")

MAX_LOG_BYTES = 4 << 20
REMIND_SECONDS = 600.0
LOOK_SECONDS = 2.0
"""Between two looks whether another step waits."""


class SecondKeeperError(RuntimeError):
    """Another keeper of this DAGSTER_HOME is at work."""


@contextmanager
def only_keeper(home: Path) -> Generator[None]:
    """Holds the keeper's lock. Raises `SecondKeeperError` if another process does."""
    path = _lock(home)
    make_folder(path.parent)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(path, str(os.getpid())))
        except HeldError as e:
            raise SecondKeeperError(f"process {e.holder} is the keeper: this one exits") from None
        yield


def is_alive(home: Path) -> bool:
    """Whether a keeper is at work."""
    return is_held(_lock(home))


def log_of(home: Path) -> Path:
    """The file in which the keeper says what happens."""
    return home / "aquarat" / "keeper.log"


def start(home: Path) -> bool:
    """Starts a keeper with this process's environment, unless one is at work; whether it did."""
    if is_alive(home):
        return False
    path = log_of(home)
    make_folder(path.parent)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as out:
        subprocess.Popen(
            [sys.executable, "-m", "aquarat_pipeline.renting.keeping"],
            env={**os.environ, "DAGSTER_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    return True


def why_needed(home: Path, now: float) -> str | None:
    """Why a keeper should be at work, or None. Reads files only, and speaks with no cloud."""
    loaded = Ledger(home).load()
    rentals = loaded.rentals
    if loaded.problems:
        return loaded.problems[0]
    if opened := sum(not rental.final for rental in rentals):
        return f"{opened} rental{'s have' if opened > 1 else ' has'} not ended"
    if any(rental.order.last_end + WATCH_SECONDS > now for rental in rentals):
        return "rentals that may still turn up"
    needs = [step for step in waiting_steps(home) if step.need.pool]
    if not needs:
        return None
    try:
        pools = read_config(home).pools
    except RentConfigError:
        return None
    waiting = [step for step in needs if (pool := pools.get(step.need.pool or "")) and pool.automatic]
    return f"{waiting[0].step} of run {waiting[0].run_id} waits for a host" if waiting else None


def start_if_needed(home: Path) -> str | None:
    """Starts a keeper if there is something to do for one and none is at work; why it was started."""
    if is_alive(home):
        return None
    why = why_needed(home, time.time())
    return why if why and start(home) else None


def ssh_key(home: Path, installation: str) -> SshKey:
    """The installation's key, made at the first call. Raises `UserError`."""
    path = home / "aquarat" / "rentals" / "id_ed25519"
    public = path.with_suffix(".pub")
    if not public.exists():
        make_folder(path.parent)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"aquarat-{installation}", "-f", str(path)]
        try:
            # A keeper that was killed in between has left a private key alone, which nobody knows yet.
            path.unlink(missing_ok=True)
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60)
        except FileNotFoundError:
            raise UserError(
                "ssh-keygen is not installed: install the OpenSSH client (Debian: openssh-client)"
            ) from None
        except subprocess.SubprocessError as e:
            raise UserError(f"no ssh key could be made in {path.parent}: {e}") from None
    return SshKey(f"aquarat-{installation}", public.read_text().strip())


def keeper_of(home: Path, surroundings: Surroundings, hosts: ManagedHosts) -> Keeper:
    """A keeper with the real parts."""
    ledger = Ledger(home)

    def config() -> RentConfig:
        return read_config(home)

    return Keeper(
        ledger, _opening(surroundings), hosts, config, lambda: ssh_key(home, ledger.installation()), surroundings.now,
        Demand(home, ledger, config, surroundings.now, why_not_here),
    )  # fmt: skip


def managed_hosts(home: Path, surroundings: Surroundings, **more: Any) -> ManagedHosts:
    """The hosts of a keeper; `more` are settings of `ManagedHosts`."""
    return ManagedHosts(home, surroundings.now, _opening(surroundings), lambda: read_config(home), **more)


def _opening(surroundings: Surroundings) -> Callable[[Account], Cloud]:
    return lambda account: connect(account, surroundings)


def keep(home: Path, surroundings: Surroundings, hosts: ManagedHosts | None = None, *, stay: bool = False) -> None:
    """Turns until nothing is left to look for, or with `stay` until it is killed. Raises `SecondKeeperError`, and
    `UserError` if it can ask none of the accounts: then it makes room for one that has their keys."""
    hosts = hosts or managed_hosts(home, surroundings)
    keeper = keeper_of(home, surroundings, hosts)
    while True:
        with only_keeper(home):
            _turns(home, surroundings, keeper, hosts, stay)
        # Whoever orders something starts no keeper while one is at work.
        if all(rental.final for rental in Ledger(home).load().rentals):
            return


def _turns(home: Path, surroundings: Surroundings, keeper: Keeper, hosts: ManagedHosts, stay: bool) -> None:
    said: dict[str, float] = {}
    while True:
        turn = keeper.turn()
        for note in turn.notes:
            if time.monotonic() - said.get(note, float("-inf")) > REMIND_SECONDS:
                log.warning("%s", one_line(note))  # hosts and providers wrote some of it
                said[note] = time.monotonic()
        if turn.helpless and not stay:
            raise UserError("this keeper can ask no account, and ends: start one with the accounts' keys (./run shell)")
        if not turn.watched and not turn.waiting and not stay:
            return
        _pause(home, surroundings, hosts.pause(turn.pause))


def _pause(home: Path, surroundings: Surroundings, seconds: float) -> None:
    """Ends early when a step begins to wait."""
    end = surroundings.now() + seconds
    before = queued(home)
    while 0 < (left := end - surroundings.now()) <= seconds and queued(home) <= before:
        surroundings.sleep(min(left, LOOK_SECONDS))


def _lock(home: Path) -> Path:
    return home / "aquarat" / "keeper.lock"


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        keep(dagster_home(), this_machine())
    except SecondKeeperError as e:
        log.info("%s", e)
    except UserError as e:
        log.error("%s", e)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
