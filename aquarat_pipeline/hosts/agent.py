"""A host's agent as an object: one method for each command, with the types of the protocol."""

from __future__ import annotations

from typing import cast

from aquarat_core.agent import protocol
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.transports import CALL_SECONDS, transport_to


class HostAgent:
    """Calls the agent of one host. Each method raises `HostError` if the host or its agent does not answer."""

    def __init__(self, host: Host) -> None:
        self._call = transport_to(host).call

    def reserve(self, request: protocol.LeaseRequest) -> protocol.LeaseReply:
        """Takes a lease ahead of `start`, for a job on several hosts."""
        return cast(protocol.LeaseReply, self._call("reserve", request))

    def start(self, request: protocol.StartRequest) -> protocol.StartReply:
        """Takes the lease and the claim and starts the job's part there, unless it was started before."""
        return cast(protocol.StartReply, self._call("start", request))

    def renew(self, request: protocol.RenewRequest) -> protocol.RenewReply:
        """Replaces the job's token."""
        return cast(protocol.RenewReply, self._call("renew", request))

    def status(self, request: protocol.JobRequest, seconds: float = CALL_SECONDS) -> protocol.StatusReply:
        """Reports whether the job's supervisor is running."""
        return cast(protocol.StatusReply, self._call("status", request, seconds))

    def stop(self, request: protocol.JobRequest, seconds: float = CALL_SECONDS) -> protocol.StopReply:
        """Ends the job's part on the host."""
        return cast(protocol.StopReply, self._call("stop", request, seconds))

    def tail(self, request: protocol.TailRequest) -> protocol.TailReply:
        """The last lines of each of the job's logs."""
        return cast(protocol.TailReply, self._call("tail", request))

    def leases(self) -> protocol.LeasesReply:
        """The valid leases."""
        return cast(protocol.LeasesReply, self._call("leases", {}))

    def release(self, lease_id: str) -> protocol.ReleaseReply:
        """Ends the holder of the lease and releases it."""
        request: protocol.ReleaseRequest = {"id": lease_id}
        return cast(protocol.ReleaseReply, self._call("release", request))

    def drain(self, reason: str | None, *, stop: bool = False) -> protocol.DrainReply:
        """Keeps new jobs away (None lets them in again) and says what still runs there; `stop` also ends that.

        The host is empty when the reply has no leases and no supervisors, and stays so.
        """
        request: protocol.DrainRequest = {"reason": reason, "stop": stop}
        return cast(protocol.DrainReply, self._call("drain", request))

    def arm(self, request: protocol.ArmRequest, seconds: float = CALL_SECONDS) -> protocol.ArmReply:
        """Arms or renews the switch that ends the host's jobs when the rental is over or nobody renews it."""
        return cast(protocol.ArmReply, self._call("arm", request, seconds))

    def disarm(self) -> protocol.DisarmReply:
        """Takes the switch away, even if it has fired; then `drain(None)` lets jobs in again."""
        return cast(protocol.DisarmReply, self._call("disarm", {}))

    def machine(self) -> protocol.Machine:
        """GPUs, driver, Pythons and C library; needs nothing that `prepare` installs."""
        return cast(protocol.Machine, self._call("machine", {}))

    def doctor(self, request: protocol.DoctorRequest, seconds: float) -> protocol.DoctorReply:
        """Reports whether the host is ready for training."""
        return cast(protocol.DoctorReply, self._call("doctor", request, seconds))
