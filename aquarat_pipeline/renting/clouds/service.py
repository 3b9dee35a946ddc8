"""What follows from a provider's answer: the same for every provider with an API of its own.

An adapter says what a refusal of its provider means (`Failure`); here it becomes one of the outcomes that the protocol
of `cloud.py` promises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aquarat_core.plain_text import one_line
from aquarat_pipeline.renting.clouds.cloud import KINDS, Surroundings
from aquarat_pipeline.renting.clouds.http import JsonClient, NotSent, Reply, Unclear, redacted
from aquarat_pipeline.renting.clouds.model import (
    CloudError,
    NoCapacity,
    OutcomeUnknown,
    Rate,
    Refused,
    Scope,
    Termination,
    Unauthorized,
    Unavailable,
)
from aquarat_pipeline.renting.clouds.rate import RateLimit, Use

_PAUSE = 10.0
"""Seconds after an answer 429 that does not say how long."""


Meaning = Literal["capacity", "refused", "key", "missing", "unclear"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A refusal in the provider's own form."""

    meaning: Meaning
    """`unclear` if even the provider does not know whether it acted, or the code is not known here."""
    code: str
    message: str
    scope: Scope = "offer"


def failure(known: Mapping[str, tuple[Meaning, Scope]], code: str, message: str) -> Failure:
    """What a provider's code means, by its table of `known` ones; others decide nothing."""
    meaning, scope = known.get(code, ("unclear", "offer"))
    return Failure(meaning, code, message, scope)


class Service:
    """An account's requests, within the shared rate."""

    def __init__(
        self,
        account: str,
        cloud: str,
        client: JsonClient,
        rate: Rate,
        surroundings: Surroundings,
        explain: Callable[[Reply], Failure | None],
    ) -> None:
        """`explain` reads a reply that is not 2xx; None if it does not have the provider's own form."""
        self._account = account
        self._kind = KINDS[cloud]
        self._client = client
        self._limit = RateLimit(surroundings.shared, cloud, client.key, rate, surroundings.now, surroundings.sleep)
        self._explain = explain
        self.now = surroundings.now
        self.clock_ahead: float | None = None
        """By how many seconds our clock was ahead of the provider's at its last answer, if it told its time."""

    def read(self, path: str, use: Use = "list") -> Any:
        """The answer's JSON. Raises `Unavailable` or `Unauthorized`."""
        found = self.find(path, use)
        if found is None:
            raise Unavailable(f"{self._account}: {self._kind.title} has no {path}: its API may have changed")
        return found

    def find(self, path: str, use: Use = "list") -> Any | None:
        """As `read`, but None if the provider says that there is no such object."""
        reply = self._ask("GET", path, None, use)
        if reply.status < 300:
            return reply.data
        failure = self._understood(reply)
        if failure.meaning == "missing":
            return None
        raise self._unavailable(failure)

    def change(self, path: str, body: object) -> Any:
        """POSTs something that costs nothing, such as an ssh key. Raises `Unavailable`, `Unauthorized`, or `Refused` if
        the provider declines."""
        reply = self._ask("POST", path, body, "list")
        if reply.status < 300:
            return reply.data
        failure = self._understood(reply)
        if failure.meaning == "refused":
            raise Refused(failure.code, self._say(failure), failure.scope)
        raise self._unavailable(failure)

    def rent(self, path: str, body: object, id_of: Callable[[Any], str | None]) -> tuple[str, Any]:
        """POSTs an order; the new instance's id and the answer. `id_of` must find an id in any JSON that has one, and
        must not raise. Raises `Refused` or `OutcomeUnknown`."""
        if not self._limit.enter("rent"):
            raise Refused(
                "rate-limit", f"{self._account}: too many requests are waiting; nothing was ordered", "account"
            )
        try:
            reply = self._client.call("POST", path, body, renting=True)
        except NotSent as e:
            raise Refused("unreachable", f"{self._account}: {e}; nothing was ordered", "account") from None
        except Unclear as e:
            self._heed(e)
            raise OutcomeUnknown(f"{self._account}: {e}", id_of(e.data)) from None
        finally:
            self._limit.leave("rent")
        made = id_of(reply.data)
        if made is not None and reply.status < 300:
            return made, reply.data
        failure = None if reply.status < 300 else self._explain(reply)
        if made is not None or failure is None or failure.meaning == "unclear":
            raise OutcomeUnknown(
                f"{self._account}: {self._kind.title} answered an order with {reply.status} and "
                f"{'no id' if failure is None else self._say(failure)}",
                made,
            )
        if failure.meaning == "capacity":
            raise NoCapacity(failure.code, self._say(failure))
        raise Refused(failure.code, self._say(failure), "account" if failure.meaning == "key" else failure.scope)

    def terminate(self, path: str, body: object, accepted: Callable[[Any], bool]) -> Termination:
        """POSTs the end of an instance. Raises `Unavailable` or `Unauthorized`."""
        reply = self._ask("POST", path, body, "terminate")
        if reply.status < 300:
            if accepted(reply.data):
                return Termination("accepted")
            return Termination("refused", f"{self._account}: the answer does not say that it ends this instance")
        failure = self._understood(reply)
        if failure.meaning == "missing":
            return Termination("gone", self._say(failure))
        if failure.meaning in ("refused", "capacity"):
            return Termination("refused", self._say(failure))
        raise self._unavailable(failure)

    def _ask(self, method: str, path: str, body: object, use: Use) -> Reply:
        if not self._limit.enter(use):
            raise Unavailable(f"{self._account}: too many requests are waiting; try again")
        try:
            reply = self._client.call(method, path, body)
            self.clock_ahead = None if reply.date is None else self.now() - reply.date
            return reply
        except NotSent as e:
            raise Unavailable(f"{self._account}: {e}") from None
        except Unclear as e:
            self._heed(e)
            raise Unavailable(f"{self._account}: {e}", e.retry_after) from None
        finally:
            self._limit.leave(use)

    def _heed(self, answer: Unclear) -> None:
        if answer.status == 429:
            self._limit.pause(_PAUSE if answer.retry_after is None else answer.retry_after)

    def _understood(self, reply: Reply) -> Failure:
        failure = self._explain(reply)
        if failure is None:
            return Failure("unclear", str(reply.status), "an answer that is not of its API's form")
        return failure

    def _unavailable(self, failure: Failure) -> CloudError:
        if failure.meaning != "key":
            return Unavailable(self._say(failure))
        return Unauthorized(f"{self._say(failure)}: look at the key and the account at {self._kind.keys_page}")

    def _say(self, failure: Failure) -> str:
        said = one_line(failure.message).rstrip(" .")[:300]
        return redacted(f"{self._account}: {self._kind.title} says {failure.code}: {said}", self._client.key)
