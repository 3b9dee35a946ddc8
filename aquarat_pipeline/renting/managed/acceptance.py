"""What makes a host of a rented instance: its key is pinned, its switch armed, it is examined and prepared.

Each of these functions speaks with the host, may take minutes, and may be repeated. Each returns how far it came;
`HostError` and `UserError` mean that another try may help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aquarat_core.agent.protocol import DoctorReply
from aquarat_core.errors import UserError
from aquarat_core.settings import REPO_ROOT, store_uri
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.host import RentedHost
from aquarat_pipeline.hosts.transports import SshTransport
from aquarat_pipeline.renting.clouds.cloud import Cloud
from aquarat_pipeline.renting.managed import host_keys
from aquarat_pipeline.renting.managed.hosting import Progress

PYTHON_PROBE = "python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null"


@dataclass(frozen=True, slots=True)
class Arming:
    """Limits of the dead-man's switch: it ends the host's jobs when one of them is reached."""

    end_in: float
    """Seconds to the end of the rental."""
    orphan_after: float
    """Seconds since the control host last renewed it."""
    power_off: bool

    def on(self, host: RentedHost) -> str | None:
        """Arms the switch, or renews it; why the host is of no use anymore if the switch has fired. Raises
        `HostError`."""
        reply = HostAgent(host).arm(
            {"end_in": self.end_in, "orphan_after": self.orphan_after, "power_off": self.power_off}
        )
        return f"its dead-man's switch has fired: {reply['reason']}" if reply["state"] == "fired" else None


@dataclass(frozen=True, slots=True)
class Preparation:
    """With what hosts are examined and prepared."""

    checkout: Path = REPO_ROOT
    pip_options: str = ""


def why_not_here(checkout: Path = REPO_ROOT) -> str | None:
    """Why this machine can prepare no rented host whatever it is like, or None. To be asked before one is ordered."""
    from aquarat_pipeline.hosts.prepare import tokenizer_wheel

    if store_uri().startswith("file://"):
        return f"the store is {store_uri()}, which rented hosts cannot reach: set AQUARAT_STORE=gs://bucket/prefix"
    try:
        tokenizer_wheel(checkout)
    except UserError as e:
        return str(e)
    return None


def reach(host: RentedHost, arming: Arming, cloud: Cloud, instance_id: str) -> Progress:
    """Pins the host's key if it is not yet, and arms the switch."""
    if not host_keys.is_pinned(host.folder):
        way = cloud.capabilities.host_key
        if way == "user_data":
            return Progress(unfit="its host key is not known, because its order did not give it one")
        keys = host_keys.look(host.address, host.port) if way == "first_use" else cloud.host_keys(instance_id)
        if not keys:
            return Progress(why="the provider does not tell its host key yet")
        host_keys.pin(host.folder, host.rental, keys, seen=way == "first_use")
    if SshTransport(host).shell(PYTHON_PROBE).returncode:
        return Progress(unfit="it has no Python 3.8 or newer, which our agent needs")
    if fired := arming.on(host):
        return Progress(unfit=fired)
    seen = host_keys.was_seen(host.folder)
    known = "was seen at the first look, and nobody vouches for it" if seen else "is the one that was expected"
    return Progress(done=True, why=f"it answers; its host key {host_keys.fingerprint(host.folder)} {known}")


def accept(host: RentedHost, preparation: Preparation, min_mb_s: float, patience: bool) -> Progress:
    """Compares the host with its offer, and with what our environments need; it must read `min_mb_s` megabytes (10^6
    bytes) a second from the store. With `patience`, problems that may pass by themselves, such as a driver that is
    still being loaded, do not make it unfit yet."""
    from aquarat_pipeline.hosts.doctor import examine
    from aquarat_pipeline.hosts.environments import UnfitHostError
    from aquarat_pipeline.hosts.prepare import choice_for

    machine = HostAgent(host).machine()
    try:
        choice = choice_for(host, machine, preparation.checkout)
    except UnfitHostError as e:
        # A driver that answers does not change anymore.
        return Progress(unfit=None if patience and not machine["driver"] else str(e), why=str(e))
    found = examine(host, prepared=False, min_mb_s=min_mb_s, checkout=preparation.checkout)
    if problems := "; ".join(own_problems(found)):
        return Progress(unfit=None if patience else problems, why=problems)
    facts = found["facts"]
    gpu = f"{facts['gpus']} {facts['gpu']}, driver {facts['driver']}" if facts["gpus"] else "no GPU"
    rest = f"{facts['disk_free_gb']} GB of disk free, {facts['download_mb_s']} MB/s from the store"
    return Progress(done=True, why=f"{gpu}, {rest}; it gets {choice.environment}")


def make_ready(host: RentedHost, preparation: Preparation) -> tuple[Progress, RentedHost]:
    """Installs the environment and examines the host with it; and the host, as it is to be used."""
    from aquarat_pipeline.hosts.doctor import examine
    from aquarat_pipeline.hosts.environments import UnfitHostError
    from aquarat_pipeline.hosts.prepare import prepare

    try:
        done = prepare(host, preparation.checkout, _unheard, preparation.pip_options)
    except UnfitHostError as e:
        return Progress(unfit=str(e)), host
    found = examine(host, checkout=preparation.checkout)
    if problems := own_problems(found):
        return Progress(unfit="; ".join(problems)), host
    if found["problems"]:
        # It serves jobs on one host, but must not meet others where strangers could.
        host = host.model_copy(update={"network_address": None})
    return Progress(done=True, why=done), host


def own_problems(found: DoctorReply) -> list[str]:
    """The problems that keep every job away: all but those of the address for jobs on several hosts."""
    return [problem for problem in found["problems"] if "network_address" not in problem]


def _unheard(_: str) -> None:
    return
