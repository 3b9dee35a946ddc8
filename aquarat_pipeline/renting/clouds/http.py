"""One JSON request to a provider, and what is known after it.

A request is sent once: no redirects, no retries, no proxy but the environment's. What matters about a failure is
whether the provider may have acted, so there are two: `NotSent`, if not a byte of the request left this machine, and
`Unclear`. Anything but an answer in JSON with a status that decides is unclear.

`http.client` and not `requests`: there it can be told whether a connection was made before something went wrong, a
whole call can be ended at a time, and neither `.netrc` nor a cookie gets into a request.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import threading
import urllib.request
from dataclasses import dataclass, field
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from aquarat_core import __version__
from aquarat_core.errors import UsageError
from aquarat_core.plain_text import one_line
from aquarat_pipeline.renting.clouds.model import Limits

USER_AGENT = f"aquarat/{__version__}"
_DECIDING = frozenset({400, 401, 403, 404, 409, 422})
"""Statuses besides 2xx that say what happened, if the provider itself sent them."""
_SHOWN = 200
_SHORTEST_KEY = 6
"""Characters; what is shorter is no key, and may be a part of any word."""


class NotSent(Exception):
    """The request did not leave this machine."""


class Unclear(Exception):
    """The request may have had any effect."""

    def __init__(self, why: str, status: int | None = None, data: object = None, retry_after: float | None = None):
        """`data` is the answer's JSON, if there was some."""
        super().__init__(why)
        self.status = status
        self.data = data
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    """2xx, or one of those that decide."""
    data: Any
    """JSON, in which numbers with a point are `Decimal`."""
    date: float | None = None
    """The provider's time in Unix seconds, from the header `Date`."""


@dataclass(frozen=True, slots=True)
class JsonClient:
    """Speaks with one provider. The key goes into the header `Authorization` and nowhere else."""

    address: str
    """For example `https://cloud.lambda.ai/api/v1`."""
    key: str = field(repr=False)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if not parts.hostname or parts.scheme not in ("http", "https") or parts.query or parts.username:
            raise UsageError(f"{self.address} is not the address of an API: write https://host/path")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise UsageError(f"{self.address}: a key is only sent over https, except to this machine")

    def call(self, method: str, path: str, body: object = None, *, renting: bool = False) -> Reply:
        """Sends one request. Raises `NotSent` or `Unclear`, and nothing else."""
        parts = urlsplit(self.address)
        connection = self._connect()
        spent = threading.Event()
        watch = threading.Timer(self.limits.call, _cut, (connection, spent))
        watch.daemon = True
        watch.start()
        try:
            _own_socket(connection).settimeout(self.limits.rent_read if renting else self.limits.read)
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, parts.path.rstrip("/") + path, payload, self._headers(payload))
            response = connection.getresponse()
            raw = response.read(self.limits.body + 1)
            whole = len(raw) <= self.limits.body and not response.length
        except Exception as e:
            late = f"no whole answer within {self.limits.call:.0f} s" if spent.is_set() else _said(e)
            raise Unclear(self._redacted(f"{parts.hostname}: {late}")) from None
        finally:
            watch.cancel()
            connection.close()
        if spent.is_set() or not whole:
            raise Unclear(f"{parts.hostname}: the answer broke off or was too long", response.status)
        return self._judge(response, raw)

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.address)
        host, port = parts.hostname or "", parts.port
        connection: http.client.HTTPConnection | None = None
        try:
            if parts.scheme == "http":
                connection = http.client.HTTPConnection(host, port, timeout=self.limits.connect)
            else:
                context = ssl.create_default_context()
                proxy = _proxy(host)
                to, at = (proxy.hostname or "", proxy.port) if proxy else (host, port)
                connection = http.client.HTTPSConnection(to, at, timeout=self.limits.connect, context=context)
                if proxy:
                    connection.set_tunnel(host, port or 443)
            connection.connect()
        except Exception as e:
            if connection is not None:
                connection.close()
            raise NotSent(self._redacted(f"{host} cannot be reached: {_said(e)}")) from None
        return connection

    def _headers(self, payload: bytes | None) -> dict[str, str]:
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json", "Authorization": f"Bearer {self.key}"}
        return headers if payload is None else {**headers, "Content-Type": "application/json"}

    def _judge(self, response: http.client.HTTPResponse, raw: bytes) -> Reply:
        status, host = response.status, urlsplit(self.address).hostname
        what = response.headers.get_content_type()
        try:
            if what != "application/json":
                raise ValueError
            data = json.loads(raw, parse_float=Decimal, parse_constant=_no_number)
        except (ValueError, ArithmeticError, RecursionError):
            shown = one_line(raw[:_SHOWN].decode("utf-8", "replace"))
            raise Unclear(
                self._redacted(f"{host} answered {status} with {what} and not with JSON: {shown}"),
                status,
                retry_after=_retry_after(response),
            ) from None
        if 200 <= status < 300 or status in _DECIDING:
            return Reply(status, data, date_of(response.headers.get("Date")))
        shown = one_line(json.dumps(data, default=str)[:_SHOWN])
        raise Unclear(self._redacted(f"{host} answered {status}: {shown}"), status, data, _retry_after(response))

    def _redacted(self, text: str) -> str:
        return redacted(text, self.key)


def redacted(text: str, key: str) -> str:
    """`text` without the key, should a provider or a library repeat it."""
    return text.replace(key, "[key]") if len(key) >= _SHORTEST_KEY else text


def _own_socket(connection: http.client.HTTPConnection) -> socket.socket:
    return connection.sock


def _cut(connection: http.client.HTTPConnection, spent: threading.Event) -> None:
    """Ends a connection that another thread reads from. Not by `SSLSocket.shutdown`, which is unsafe during a read."""
    spent.set()
    try:
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
    except (OSError, AttributeError, TypeError):
        return  # closed already


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return one_line(str(error)) or type(error).__name__


def _no_number(text: str) -> object:
    raise ValueError(text)


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """Seconds. A date in this header counts as no value: providers' clocks are not trusted."""
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else None


def date_of(header: str | None) -> float | None:
    """Unix seconds of a header `Date`; None if it is missing or cannot be read."""
    try:
        return parsedate_to_datetime(header or "").timestamp()
    except (ValueError, OverflowError):
        return None


def _proxy(host: str) -> Any:
    address = urllib.request.getproxies().get("https")
    if not address or urllib.request.proxy_bypass(host):
        return None
    return urlsplit(address if "//" in address else f"//{address}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
