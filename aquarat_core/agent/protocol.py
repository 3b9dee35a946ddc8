"""The protocol between control host and GPU host: the agent's requests and replies, and the objects in a job's folder.

The agent imports these types only for type checking, so they do not slow its calls. Never rename a field that is in
use: a host may have leases and jobs made by another version of the agent.
"""

from __future__ import annotations

from typing import Any, Dict, Literal, TypedDict, Union, final  # noqa: UP035 (Python 3.8)

# --- processes and tokens ---------------------------------------------------------------------------------------------


class ProcessId(TypedDict):
    """Identifies a process, even if its number is reused later."""

    boot: str
    """The kernel's id of this boot of the machine."""
    pid: int
    started: int
    """Clock tick, counted from boot, at which it started."""


class Token(TypedDict):
    """A bearer token for the store, with its remaining lifetime instead of an end time: a host's clock may be wrong."""

    token: str
    seconds: float


# --- requests ---------------------------------------------------------------------------------------------------------


class JobRequest(TypedDict):
    """One node's part of a job. By itself, it is the request of `status` and `stop`."""

    id: str
    """Names the job's directory and lease on the host; short, because socket paths have a length limit."""
    job: str
    """URI of the job's folder in the store."""
    node: int
    mark: str
    """Value of the environment variable that identifies the job's processes."""


class LeaseRequest(JobRequest):
    """`reserve`: what the job needs of the host."""

    owner: str
    """Id of the run."""
    step: str
    host: str
    """The host's name in the inventory."""
    gpus: int
    host_gpus: int
    max_leases: int | None
    """None for a job that does not wait for others."""
    ttl: float
    """Seconds for which the lease is valid without renewal."""


class _StartRequest(LeaseRequest):
    argv: list[str]
    """The command; `{scratch}` in it stands for the job's scratch directory."""
    env: dict[str, str]
    inherit: bool
    """True if the job inherits the agent's own environment."""
    cwd: str | None
    ranks: bool
    """True if torchrun starts the job; torchrun then prefixes each line with its rank."""
    token: Token | None
    heartbeat: float
    """Seconds between two heartbeats."""
    grace: float
    """Seconds between SIGTERM and SIGKILL."""
    min_free_bytes: int


class StartRequest(_StartRequest, total=False):
    """`start`."""

    log_bytes: int
    """Maximum bytes of each log on disk; the default is the agent's own limit."""


class RenewRequest(JobRequest):
    """`renew`: replaces the old token."""

    token: Token | None


class TailRequest(JobRequest):
    """`tail`: the last lines of each log."""

    lines: int


class _ReleaseRequest(TypedDict):
    id: str


class ReleaseRequest(_ReleaseRequest, total=False):
    """`release`: ends the lease with that id, and waits at most `seconds` for its processes."""

    seconds: float


class _DrainRequest(TypedDict):
    reason: str | None
    """Why the host takes no more jobs; None: it takes them again."""


class DrainRequest(_DrainRequest, total=False):
    """`drain`: keeps new jobs away until another `drain` lets them in."""

    stop: bool
    """True also ends the jobs that run there; their runs continue on other hosts."""


class ArmRequest(TypedDict):
    """`arm`: arms the host's dead-man's switch, or renews it. All times are in seconds from now."""

    end_in: float
    """When the rental is over."""
    orphan_after: float
    """How long the control host may be silent, that is, not send `arm` again."""
    power_off: bool
    """Whether the host powers off once its jobs have ended."""


class DisarmRequest(TypedDict):
    """`disarm`: has no fields."""


class LeasesRequest(TypedDict):
    """`leases`: has no fields."""


class MachineRequest(TypedDict):
    """`machine`: has no fields."""


class Download(TypedDict):
    """An object in the store that `doctor` reads to measure the rate."""

    folder: str
    """URI of the folder that it is in."""
    name: str
    token: Token | None
    min_mb_s: float
    """Megabytes (10^6 bytes) a second that are enough."""


class _DoctorRequest(TypedDict):
    name: str
    interpreter: str
    """The Python with the project; empty if the host is not prepared yet."""
    gpus: int
    store: str
    here: bool
    """True if the host is the machine that asks."""
    min_free_bytes: int
    meeting: tuple[str, int] | None
    """Address and port where the hosts of one job meet, if set."""
    time: float
    """Seconds since 1970."""


class DoctorRequest(_DoctorRequest, total=False):
    """`doctor`: the host's entry in the inventory, and facts about the machine that asks."""

    download: Download | None


# --- leases -----------------------------------------------------------------------------------------------------------


class _Lease(TypedDict):
    id: str
    mark: str
    job: str
    owner: str
    step: str
    gpus: list[int]
    unlimited: bool
    """True if the lease does not count toward the host's `max_leases`."""
    processes: list[ProcessId]
    """The processes that hold it until they end."""
    boot: str
    expires: float
    """Seconds since boot, including sleep."""


@final
class Lease(_Lease):
    """A file `leases/<id>.json` on the host."""


class HeldLease(TypedDict):
    """A valid lease, as a refusal names it."""

    mark: str
    gpus: int
    counts: bool
    """Whether it counts toward the host's `max_leases`."""


@final
class Busy(TypedDict):
    """The reason why there is no lease, and all that there are."""

    busy: str
    held: list[HeldLease]


class ListedLease(_Lease):
    """A lease as `leases` shows it."""

    seconds_left: float


class _SupervisorRecord(ProcessId):
    mark: str
    job: str


class SupervisorRecord(_SupervisorRecord, total=False):
    """`jobs/<id>/supervisor.json` on the host."""

    grace: float
    """Seconds between the job's SIGTERM and its SIGKILL; older agents do not write it."""


class SwitchRecord(TypedDict):
    """`switch.json` on the host: its dead-man's switch. Times are in seconds since boot, including sleep."""

    ends: float
    renewed: float
    orphan_after: float
    power_off: bool
    fired: str | None
    """Why it ended the jobs, or None while it waits."""


# --- replies ----------------------------------------------------------------------------------------------------------


class Started(TypedDict):
    """The job is now running."""

    state: Literal["started"]
    gpus: list[int]


class StartedBefore(TypedDict):
    """The job was started before, on this or another host."""

    state: Literal["already-started", "claimed"]


class _Refused(TypedDict):
    state: Literal["busy", "full"]
    reason: str


class Refused(_Refused, total=False):
    """Nothing was started or reserved. A busy host names its leases."""

    held: list[HeldLease]


class Reserved(TypedDict):
    """The lease is taken for the `start` that follows."""

    state: Literal["reserved"]


StartReply = Union[Started, StartedBefore, Refused]  # noqa: UP007 (Python 3.8)
LeaseReply = Union[Reserved, Refused]  # noqa: UP007


class RenewReply(TypedDict):
    """`unknown`: the job is not running here."""

    state: Literal["renewed", "unknown"]


class StatusReply(TypedDict):
    """`unknown`: never started here. `gone`: its supervisor has died."""

    state: Literal["unknown", "running", "gone"]


class Stopping(TypedDict):
    """The job's supervisor was asked to end it."""

    state: Literal["stopping"]


class Stopped(TypedDict):
    """The job has no supervisor; lists its processes that could not be killed."""

    state: Literal["stopped"]
    survivors: list[int]


StopReply = Union[Stopping, Stopped]  # noqa: UP007


class TailReply(TypedDict):
    """The last lines by log path, relative to the host's root."""

    logs: dict[str, list[str]]


class LeasesReply(TypedDict):
    """The valid leases."""

    leases: list[ListedLease]


class DrainReply(TypedDict):
    """The jobs that still run on the host. A supervisor writes its last status after its lease has ended."""

    state: Literal["drained", "open"]
    leases: list[ListedLease]
    supervisors: int


class Armed(TypedDict):
    """The switch waits."""

    state: Literal["armed"]
    started: bool
    """Whether this call started its process, because there was none yet or it had been killed."""


class Fired(TypedDict):
    """The switch has ended the host's jobs, and nothing was changed: the host takes none, and may be powering off."""

    state: Literal["fired"]
    reason: str


ArmReply = Union[Armed, Fired]  # noqa: UP007


class DisarmReply(TypedDict):
    """Nothing ends the host's jobs by itself. A host whose switch has fired still takes no jobs until `drain` lets
    them in."""

    state: Literal["disarmed"]


class _ReleaseReply(TypedDict):
    state: Literal["unknown", "held", "released"]


class ReleaseReply(_ReleaseReply, total=False):
    """`unknown`: there is no such lease. `held`: it still exists. `stop` is the reply to stopping its job."""

    stop: Literal["stopping", "stopped"]


Fact = Union[str, int, float, None]  # noqa: UP007


class DoctorReply(TypedDict):
    """Facts for a table, and problems as sentences."""

    facts: dict[str, Fact]
    problems: list[str]


class Gpu(TypedDict):
    """A GPU as the driver names it."""

    name: str
    memory_mib: int | None
    """In units of 2^20 bytes."""


class PythonFound(TypedDict):
    """An interpreter."""

    command: str
    version: str
    venv: bool
    """Whether it can make virtual environments with pip."""


class Machine(TypedDict):
    """The facts about a host that decide which environment can run there."""

    gpus: list[Gpu]
    driver: str | None
    """Version of the NVIDIA driver, or None if it shows no GPU."""
    driver_problem: str | None
    pythons: list[PythonFound]
    """The preferred one first."""
    architecture: str
    """Such as `x86_64`."""
    libc: str
    """Such as `glibc 2.35`."""


class _ErrorReply(TypedDict):
    error: str


class ErrorReply(_ErrorReply, total=False):
    """Reply of any command that failed; a program fault has its traceback."""

    traceback: str


# --- the job's folder -------------------------------------------------------------------------------------------------


class Hosts(TypedDict):
    """`hosts.json`: names of the hosts that were last tried, the rendezvous host first."""

    hosts: list[str]


class Claim(TypedDict):
    """`claim/node<n>.json`: the host that started this node's part."""

    host: str
    boot: str


class Cancel(TypedDict):
    """`cancel.json`."""

    reason: str


class Chunk(TypedDict):
    """`output/node<n>/<number>.json`."""

    lines: list[str]
    messages: list[dict[str, Any]]
    """Dagster Pipes messages."""


class NodeFacts(TypedDict):
    """Fields of every node status."""

    node: int
    host: str
    supervisor: ProcessId


class RunningStatus(NodeFacts):
    """`status/node<n>.json` while the node's part is running."""

    state: Literal["running"]
    sequence: int
    chunks: int
    """Number of output chunks in the folder."""


class NodeEnd(TypedDict):
    """How a node's part ended."""

    state: Literal["ended"]
    code: int | None
    """Exit code of its command, or None if it has none."""
    signal: int | None
    """The signal that killed the first failed rank, according to torchrun."""
    launcher_failed: bool
    """Whether torchrun failed although none of its ranks did."""
    reason: str | None
    """Why its supervisor ended it; None if it ended by itself."""
    complete: bool
    """Whether all of its output is in the folder."""
    tail: list[str]


class EndedStatus(NodeEnd):
    """`status/node<n>.json` after the end."""

    node: int
    host: str
    sequence: int
    """-1 if the watchdog wrote it because the supervisor was killed."""
    chunks: int


Status = Union[RunningStatus, EndedStatus]  # noqa: UP007


class ResultError(TypedDict):
    """Why a stage failed."""

    type: str
    message: str
    user: bool
    """Whether the user can fix it."""


class Succeeded(TypedDict):
    """`result.json` of a stage that has published its artifact; the other fields are for human readers."""

    ok: Literal[True]
    manifest_sha256: str


class Failed(TypedDict):
    """`result.json` of a stage that failed."""

    ok: Literal[False]
    error: ResultError


Result = Union[Succeeded, Failed]  # noqa: UP007
Cursor = Dict[str, int]  # noqa: UP006
"""`cursor.json`: how many chunks of each node have been shown."""
