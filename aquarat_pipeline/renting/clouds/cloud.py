"""The protocol of a cloud, and the accounts that are there."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from aquarat_core.errors import UsageError
from aquarat_core.settings import cache_dir
from aquarat_pipeline.renting.clouds.model import (
    Capabilities,
    Granted,
    Instance,
    Leftover,
    Limits,
    Listing,
    Offer,
    Order,
    Termination,
)
from aquarat_pipeline.renting.money import Money


class Cloud(Protocol):
    """One account at a provider.

    Methods raise `Unavailable` or `Unauthorized`, unless they say otherwise. Each sends as few requests as it can, and
    repeats none.
    """

    @property
    def account(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def offers(self) -> tuple[Offer, ...]:
        """All kinds of hosts with their prices, those that are sold out too. Selecting is up to the caller."""
        ...

    def rent(self, offer: Offer, order: Order) -> Instance | Granted:
        """Sends one request. Raises `Refused` (or `NoCapacity`) only if certainly no instance was made, otherwise
        `OutcomeUnknown`; nothing else."""
        ...

    def list(self) -> Listing:
        """All instances of the account, also those of others. A list that could not be read in full raises."""
        ...

    def get(self, instance_id: str) -> Instance | None:
        """None only if the provider says that there is no such instance, which may be untrue of a young one."""
        ...

    def terminate(self, instance_id: str) -> Termination:
        """Asks to end the instance. May be repeated; promises nothing."""
        ...

    def balance(self) -> Money | None:
        """What is left of prepaid credit; None where bills come later."""
        ...

    def ensure_ssh_key(self, name: str, public_key: str) -> str:
        """The name by which orders refer to this key. Compares keys, not names, and registers it if it is missing."""
        ...

    def leftovers(self) -> tuple[Leftover, ...]:
        """What else costs money, also of others. Nothing of it is made here; () where the API does not tell."""
        ...

    def host_keys(self, instance_id: str) -> tuple[str, ...]:
        """The host's ssh keys (`ssh-ed25519 AAAA...`), if the provider tells them, otherwise ()."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """What is needed to open a cloud; the key is in the environment under its variable's name."""

    name: str
    cloud: str
    """One of `KINDS`."""
    key_variable: str | None = None
    """The provider's usual one if None."""
    address: str | None = None
    """The API's base address; the provider's own if None."""
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """What only this kind of cloud needs; see its adapter."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Time, environment and place of a process that speaks with clouds."""

    shared: Path
    """A folder for the rate limits, the same for all processes of this user on this machine."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    limits: Limits = field(default_factory=Limits)


def this_machine() -> Surroundings:
    """The real time and environment; rate limits next to the cache."""
    return Surroundings(cache_dir() / "rates")


@dataclass(frozen=True, slots=True)
class Kind:
    """A provider that there is an adapter for."""

    title: str
    adapter: str
    """The module in this package. It has a function `connect(account, key, surroundings) -> Cloud`."""
    key_variable: str | None
    """The variable of the environment that holds the key; None if credentials come from elsewhere."""
    keys_page: str
    """Where a person makes or looks at keys."""
    console: str
    """Where a person sees the instances, and can end them by hand."""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "lambda": Kind(
            "Lambda", "lambda_cloud", "LAMBDA_API_KEY", "https://cloud.lambda.ai/api-keys", "https://cloud.lambda.ai"
        ),
        "hyperbolic": Kind(
            "Hyperbolic",
            "hyperbolic",
            "HYPERBOLIC_API_KEY",
            "https://hyperbolic.ai (Settings, API Keys)",
            "https://app.hyperbolic.ai",
        ),
        "gce": Kind(
            "Google Compute Engine",
            "gcp",
            None,
            "https://console.cloud.google.com/iam-admin/serviceaccounts",
            "https://console.cloud.google.com/compute/instances",
        ),
    }
)


def connect(account: Account, surroundings: Surroundings) -> Cloud:
    """The cloud of an account. Raises `UsageError` if its key is missing, without asking the cloud."""
    kind = KINDS[account.cloud]
    key = ""
    variable = account.key_variable or kind.key_variable
    if variable:
        key = surroundings.environ.get(variable, "").strip()
        if not key:
            raise UsageError(f"{account.name}: {variable} is not set: make a key at {kind.keys_page}, put it into .env")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UsageError(f"{account.name}: {variable} holds characters that no key has: copy it again")
    adapter = importlib.import_module(f"aquarat_pipeline.renting.clouds.{kind.adapter}")
    return adapter.connect(account, key, surroundings)


def accounts_in_environment(environ: Mapping[str, str]) -> list[Account]:
    """An account for each provider whose key variable is set."""
    return [
        Account(name, name)
        for name, kind in KINDS.items()
        if kind.key_variable and environ.get(kind.key_variable, "").strip()
    ]
