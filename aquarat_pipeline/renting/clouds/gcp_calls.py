"""Requests to Compute Engine, and what their failures mean in the words of `model.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import requests
import urllib3.exceptions

from aquarat_core.errors import MissingPackageError
from aquarat_core.plain_text import one_line
from aquarat_pipeline.renting.clouds.cloud import KINDS, Surroundings
from aquarat_pipeline.renting.clouds.http import USER_AGENT, date_of
from aquarat_pipeline.renting.clouds.model import (
    NoCapacity,
    OutcomeUnknown,
    Rate,
    Refused,
    Termination,
    Unauthorized,
    Unavailable,
)
from aquarat_pipeline.renting.clouds.rate import RateLimit, Use
from aquarat_pipeline.renting.clouds.reading import field

T = TypeVar("T")
_NO_STOCK = ("ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "resourcePoolExhausted")
_ACCOUNT = ("quotaExceeded", "QUOTA_EXCEEDED", "billingNotEnabled", "accessNotConfigured", "forbidden")


class Calls:
    """One request for each method, none repeated."""

    def __init__(self, account: str, project: str, address: str | None, rate: Rate, surroundings: Surroundings) -> None:
        """`address` of something else than Google's API, which then gets no credentials. Raises `MissingPackageError`
        or `Unauthorized`."""
        try:
            from google.api_core import exceptions
            from google.auth import credentials
            from google.auth import exceptions as auth
            from google.cloud import compute_v1
            from google.cloud.compute_v1.services.disks.transports import DisksRestTransport
            from google.cloud.compute_v1.services.instances.transports import InstancesRestTransport
            from google.cloud.compute_v1.services.machine_types.transports import MachineTypesRestTransport
        except ImportError:
            raise MissingPackageError("renting from Compute Engine", "google-cloud-compute", "gce") from None
        self._account = account
        self._project = project
        self._limit = RateLimit(surroundings.shared, "gce", project, rate, surroundings.now, surroundings.sleep)
        self._api, self._auth, self._compute = exceptions, auth, compute_v1
        self._limits = surroundings.limits
        self.now = surroundings.now
        self.clock_ahead: float | None = None
        """By how many seconds our clock was ahead of Google's at its last answer, if it told its time."""
        settings: dict[str, Any] = {}
        if address:
            settings = {"host": address, "credentials": credentials.AnonymousCredentials()}
        try:
            instances = InstancesRestTransport(**settings)
            machine_types = MachineTypesRestTransport(**settings)
            disks = DisksRestTransport(**settings)
        except auth.GoogleAuthError as e:
            raise Unauthorized(f"{account}: no Google credentials: {one_line(str(e))}") from None
        for transport in (instances, machine_types, disks):
            session: requests.Session = transport._session  # pyright: ignore[reportPrivateUsage]
            session.headers["User-Agent"] = USER_AGENT
            # A redirected request may be sent twice, or with its credentials to somebody else.
            session.max_redirects = 0
            session.hooks["response"].append(self._note_time)
        self._instances: Any = compute_v1.InstancesClient(transport=instances)
        self._disks: Any = compute_v1.DisksClient(transport=disks)
        self._machine_types: Any = compute_v1.MachineTypesClient(transport=machine_types)

    def _note_time(self, response: requests.Response, **_: Any) -> None:
        date = date_of(response.headers.get("Date"))
        self.clock_ahead = None if date is None else self.now() - date

    def machine_types(self, zone: str) -> list[Any]:
        request = self._compute.ListMachineTypesRequest(project=self._project, zone=zone)
        return self._read(
            lambda: list(self._machine_types.list(request, retry=None, timeout=self._limits.read)), "offers"
        )

    def instances(self) -> list[Any]:
        """All instances of the project. A zone that does not answer makes it `Unavailable`."""
        request = self._compute.AggregatedListInstancesRequest(project=self._project)
        return self._in_all_zones(self._instances, request, "instances")

    def disks(self) -> list[Any]:
        """All disks of the project, as `instances`."""
        return self._in_all_zones(self._disks, self._compute.AggregatedListDisksRequest(project=self._project), "disks")

    def _in_all_zones(self, client: Any, request: Any, what: str) -> list[Any]:
        def read() -> list[Any]:
            found: list[Any] = []
            for page in client.aggregated_list(request, retry=None, timeout=self._limits.read).pages:
                if page.unreachables:
                    raise Unavailable(f"{self._account}: no answer about {', '.join(page.unreachables)}")
                for scope in page.items.values():
                    found += getattr(scope, what)
            return found

        return self._read(read, "list")

    def instance(self, zone: str, name: str) -> Any | None:
        place = {"project": self._project, "zone": zone, "instance": name}
        try:
            return self._read(lambda: self._instances.get(place, retry=None, timeout=self._limits.read), "list")
        except _Missing:
            return None

    def guest_attributes(self, zone: str, name: str, path: str) -> list[tuple[str, str]]:
        """Keys and values under a path; none before the guest has written them."""
        request = {"project": self._project, "zone": zone, "instance": name, "query_path": path}
        try:
            found = self._read(
                lambda: self._instances.get_guest_attributes(request, retry=None, timeout=self._limits.read), "list"
            )
        except _Missing:
            return []
        return [(one.key, one.value) for one in found.query_value.items]

    def insert(self, zone: str, resource: dict[str, Any], request_id: str) -> None:
        """Raises `Refused` or `OutcomeUnknown`. An instance of this name that exists is what an earlier try made."""
        if not self._limit.enter("rent"):
            raise Refused(
                "rate-limit", f"{self._account}: too many requests are waiting; nothing was ordered", "account"
            )
        request = self._compute.InsertInstanceRequest(
            project=self._project, zone=zone, instance_resource=resource, request_id=request_id
        )
        try:
            operation = self._instances.insert_unary(request, retry=None, timeout=self._limits.rent_read)
        except self._api.Conflict:
            return
        except self._api.GoogleAPICallError as e:
            raise self._refused(e) from None
        except self._auth.GoogleAuthError as e:
            raise Refused("no-credentials", f"{self._account}: {one_line(str(e))}", "account") from None
        except Exception as e:
            if _not_sent(e):
                why = f"{self._account}: Compute Engine cannot be reached; nothing was ordered"
                raise Refused("unreachable", why, "account") from None
            raise OutcomeUnknown(f"{self._account}: {one_line(str(e))[:300]}") from None
        finally:
            self._limit.leave("rent")
        for problem in operation.error.errors:
            raise self._declined(problem.code, problem.message)

    def delete(self, zone: str, name: str) -> Termination:
        place = {"project": self._project, "zone": zone, "instance": name}
        try:
            self._read(lambda: self._instances.delete_unary(place, retry=None, timeout=self._limits.read), "terminate")
        except _Missing as e:
            return Termination("gone", str(e))
        return Termination("accepted")

    def _read(self, ask: Callable[[], T], use: Use) -> T:
        """Raises `_Missing`, `Unavailable` or `Unauthorized`."""
        if not self._limit.enter(use):
            raise Unavailable(f"{self._account}: too many requests are waiting; try again")
        try:
            return ask()
        except Unavailable:
            raise
        except self._api.NotFound as e:
            raise _Missing(self._say(e)) from None
        except (self._api.Unauthorized, self._api.Forbidden) as e:
            if _reason(e) in ("", "rateLimitExceeded"):
                raise Unavailable(self._say(e)) from None
            raise Unauthorized(f"{self._say(e)}: look at {KINDS['gce'].keys_page}") from None
        except self._auth.GoogleAuthError as e:
            raise Unauthorized(f"{self._say(e)}: look at {KINDS['gce'].keys_page}") from None
        except Exception as e:
            raise Unavailable(self._say(e)) from None
        finally:
            self._limit.leave(use)

    def _refused(self, error: Any) -> Exception:
        """What a failed order means: 4xx in Google's own form are definite, all else may have been done."""
        reason = _reason(error)
        if not reason or error.code is None or not 400 <= error.code < 500 or error.code in (408, 429):
            return OutcomeUnknown(self._say(error))
        return self._declined(reason, error.message)

    def _declined(self, code: str, message: str) -> Refused:
        why = f"{self._account}: Compute Engine says {code}: {one_line(message)[:300]}"
        if code in _NO_STOCK:
            return NoCapacity(code, why)
        return Refused(code, why, "account" if code in _ACCOUNT else "offer")

    def _say(self, error: Exception) -> str:
        return f"{self._account}: {one_line(str(error))[:300]}"


class _Missing(Unavailable):
    """There is no such object."""


def zone_of(address: str) -> str:
    """The zone at the end of its address."""
    return address.rpartition("/")[2]


def _reason(error: Any) -> str:
    """Google's word for an error, or nothing if the answer is not of Google's form."""
    return next((str(field(one, "reason") or "") for one in error.errors), "")


def _not_sent(error: Exception) -> bool:
    if isinstance(error, requests.ConnectTimeout):
        return True
    cause = error.args[0] if isinstance(error, requests.ConnectionError) and error.args else None
    return isinstance(getattr(cause, "reason", None), urllib3.exceptions.NewConnectionError)
