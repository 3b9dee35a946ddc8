"""rent.yaml: from which accounts hosts may be rented, for which runs, and for how much money.

It is read again each time. A broken file only stops new rentals: whatever a rental needs until it is gone is in its
order. Without the file, hosts are rented by hand only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from aquarat_core.config import strict_yaml
from aquarat_core.errors import UsageError, UserError
from aquarat_pipeline.renting.clouds.cloud import KINDS, Account
from aquarat_pipeline.renting.clouds.model import Offer
from aquarat_pipeline.renting.money import HIGHEST_GPU_PRICE, LOWEST_GPU_PRICE, Money, doubtful
from aquarat_pipeline.renting.ordering.selecting import nearest
from aquarat_pipeline.renting.rental import Phases
from aquarat_pipeline.tags import BUDGET_TAG

FILE = "rent.yaml"
LONGEST_HOURS = 24 * 30


class RentConfigError(UserError):
    """A rent.yaml that cannot be used; the message says where and why."""


def dollars(given: object) -> Money:
    """An amount as people write it: 34, 31.92, "31.92". Raises `ValueError`."""
    if isinstance(given, Money):
        return given
    if isinstance(given, bool) or not isinstance(given, (int, float, str, Decimal)):
        raise ValueError("write an amount in dollars, such as 31.92")
    amount = Money.dollars(str(given).strip())
    if amount.micros <= 0:
        raise ValueError("an amount of money must be above 0")
    return amount


Dollars = Annotated[Money, BeforeValidator(dollars)]
Hours = Annotated[float, Field(gt=0, le=LONGEST_HOURS)]
Minutes = Annotated[float, Field(gt=0, le=24 * 60)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Limits(_Section):
    """How long, in minutes, each phase of a rental may take before it is ended, and other times."""

    boot_minutes: Minutes = 20
    reach_minutes: Minutes = 10
    accept_minutes: Minutes = 5
    prepare_minutes: Minutes = 30
    lost_minutes: Minutes = 15
    drain_minutes: Annotated[float, Field(ge=0, le=24 * 60)] = 10
    wait_minutes: Annotated[float, Field(ge=0)] = 2
    """A run waits for so long before something is rented for it."""
    download_mb_s: Annotated[float, Field(ge=0)] = 10
    """A host that reads less from the store, in megabytes a second, is unfit."""
    rest_hours: Annotated[float, Field(ge=0)] = 24
    """An offer is not taken again for so long after a host of it was unfit."""

    def phases(self, idle_minutes: float) -> Phases:
        return Phases(
            boot=self.boot_minutes * 60, reach=self.reach_minutes * 60, accept=self.accept_minutes * 60,
            prepare=self.prepare_minutes * 60, lost=self.lost_minutes * 60, drain=self.drain_minutes * 60,
            idle=idle_minutes * 60,
        )  # fmt: skip


class AccountSettings(_Section):
    """An account at a provider, and how much it may cost."""

    cloud: str
    key: str | None = None
    """The *name* of the environment variable that holds the key."""
    address: str | None = None
    options: dict[str, Any] = {}
    per_day: Dollars | None = None
    """Days and months begin at 00:00 UTC."""
    per_month: Dollars | None = None
    max_rentals: Annotated[int, Field(ge=1)] = 2
    max_gpus: Annotated[int, Field(ge=1)] | None = None

    @field_validator("cloud")
    @classmethod
    def _cloud(cls, cloud: str) -> str:
        if cloud not in KINDS:
            raise ValueError(f"there is no cloud {cloud!r}{nearest(cloud, list(KINDS))}")
        return cloud

    @field_validator("key")
    @classmethod
    def _key(cls, key: str | None) -> str | None:
        # The value is not shown, because it may be a key.
        if key is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", key):
            raise ValueError("write the name of the variable that holds the key, such as LAMBDA_API_KEY, not the key")
        return key


class Source(_Section):
    """Offers of one account that a pool may take."""

    account: str
    types: tuple[str, ...] = ("*",)
    regions: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ("*",)
    gpus: Annotated[int, Field(ge=1)] | None = None
    image: str | None = None
    """A family of images; the provider's default without it."""
    forward: tuple[str, ...] | None = None

    def takes(self, offer: Offer) -> bool:
        return (
            any(fnmatchcase(offer.type, pattern) for pattern in self.types)
            and any(fnmatchcase(offer.region, pattern) for pattern in self.regions)
            and any(fnmatchcase(offer.gpu_model.lower(), pattern.lower()) for pattern in self.models)
            and (self.gpus is None or offer.gpus == self.gpus)
        )


class Pool(_Section):
    """What may be rented for runs with the tag aquarat/pool of this name."""

    sources: tuple[Source, ...] = Field(alias="from", min_length=1)
    max_price_per_hour: Dollars
    """Of a whole host."""
    max_gpu_price: Dollars | None = None
    """Per GPU-hour."""
    hours: Hours
    most_hours: Hours | None = None
    """Up to which a rental may be extended; `hours` if it is not given. Caps count these."""
    idle_minutes: Minutes = 10
    automatic: bool = False
    per_run: Dollars | None = None
    max_rentals: Annotated[int, Field(ge=1)] | None = None
    env: dict[str, str] = {}
    forward: tuple[str, ...] = ()

    @property
    def longest(self) -> float:
        """Hours."""
        return self.hours if self.most_hours is None else self.most_hours

    def source_of(self, account: str, offer: Offer) -> Source | None:
        """The first source that takes the account's offer."""
        return next((source for source in self.sources if source.account == account and source.takes(offer)), None)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.longest < self.hours:
            raise ValueError(f"most_hours is {self.longest:g}, which is less than hours ({self.hours:g})")
        per_gpu = self.max_gpu_price
        if per_gpu and not LOWEST_GPU_PRICE <= per_gpu.micros <= HIGHEST_GPU_PRICE:
            raise ValueError(
                f"max_gpu_price is {per_gpu} per GPU-hour: dollars are meant, and {Money(LOWEST_GPU_PRICE)} to "
                f"{Money(HIGHEST_GPU_PRICE)} are plausible"
            )
        for source in self.sources:
            if source.gpus and (why := doubtful(self.max_price_per_hour, source.gpus)):
                raise ValueError(f"max_price_per_hour: {why}. Dollars for the whole host are meant")
        return self


class RentConfig(_Section):
    """The whole of rent.yaml."""

    accounts: dict[str, AccountSettings] = {}
    pools: dict[str, Pool] = {}
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, pool in self.pools.items():
            for account in (source.account for source in pool.sources):
                if account not in self.accounts:
                    raise ValueError(
                        f"pools.{name}: there is no account {account!r}{nearest(account, list(self.accounts))}"
                    )
                self._affordable(name, pool, account)
        return self

    def _affordable(self, name: str, pool: Pool, account: str) -> None:
        caps = self.accounts[account]
        if pool.automatic and not (caps.per_day or caps.per_month):
            raise ValueError(
                f"pools.{name} is automatic, but accounts.{account} has neither per_day nor per_month: add one, "
                "because nothing is rented automatically without a limit"
            )
        total = total_price(pool.max_price_per_hour, pool.longest)
        for what, cap in (
            (f"accounts.{account}.per_day", caps.per_day),
            (f"accounts.{account}.per_month", caps.per_month),
            (f"pools.{name}.per_run", pool.per_run),
        ):
            if cap is not None and total > cap:
                raise ValueError(
                    f"pools.{name}: {pool.longest:g} h at {pool.max_price_per_hour} are {total}, which {what} ({cap}) "
                    "never allows: nothing could be rented. Lower the hours or the price, or raise the limit"
                )

    def account(self, name: str) -> Account:
        """Raises `RentConfigError`."""
        settings = self.accounts.get(name)
        if settings is None:
            raise RentConfigError(f"{FILE} has no account {name!r}{nearest(name, list(self.accounts))}")
        return Account(name, settings.cloud, settings.key, settings.address, settings.options)

    def pool(self, name: str) -> Pool:
        """Raises `RentConfigError`."""
        found = self.pools.get(name)
        if found is None:
            near = nearest(name, list(self.pools)) if self.pools else f": write it into {FILE} first (docs/renting.md)"
            raise RentConfigError(f"{FILE} has no pool {name!r}{near}")
        return found


def budget_micros(tags: Mapping[str, str]) -> int | None:
    """What rentals for a run with these tags may cost, in millionths of a dollar. Raises `UsageError`."""
    given = tags.get(BUDGET_TAG)
    if given is None:
        return None
    try:
        return dollars(given.removeprefix("$")).micros
    except ValueError as e:
        raise UsageError(f"the run's tag {BUDGET_TAG} is {given!r}: {e}") from None


def by_hand(pool: str) -> str:
    """What is said to a run that waits for a pool which is not automatic."""
    return f"the pool {pool} of {FILE} is not automatic, so a person has to rent: aquarat hosts rent --pool {pool}"


def total_price(price_per_hour: Money, hours: float) -> Money:
    """Rounded up to the micro-dollar."""
    return Money(-int(-Decimal(price_per_hour.micros) * Decimal(repr(hours)) // 1))


def read_config(home: Path) -> RentConfig:
    """`home`/rent.yaml, or a configuration without accounts. Raises `RentConfigError`."""
    path = home / FILE
    try:
        given = strict_yaml.load(path)
    except FileNotFoundError:
        return RentConfig()
    except strict_yaml.YamlError as e:
        raise RentConfigError(str(e)) from None
    except OSError as e:
        raise RentConfigError(f"{path} cannot be read: {e}") from None
    try:
        return RentConfig.model_validate(given or {})
    except ValidationError as e:
        # Without the values, one of which may be a key.
        errors = e.errors(include_input=False, include_url=False)
        problems = "; ".join(
            f"{'.'.join(map(str, p['loc'])) or 'the file'}: {_problem(p['type'], p['msg'], p['loc'])}"
            for p in errors
            # A list whose entries are wrong is also too short, which says nothing new.
            if not any(p["loc"] == q["loc"][: len(p["loc"])] != q["loc"] for q in errors)
        )
        raise RentConfigError(f"{path}: {problems}") from None


def _problem(kind: str, message: str, where: tuple[int | str, ...]) -> str:
    """In words for people; a setting that does not exist comes with the nearest one that does."""
    if kind != "extra_forbidden":
        return message.removeprefix("Value error, ")
    section: type[_Section] = {"accounts": AccountSettings, "pools": Pool, "limits": Limits}.get(
        str(where[0]), RentConfig
    )
    section = RentConfig if len(where) == 1 else Source if "from" in where else section
    known = [field.alias or name for name, field in section.model_fields.items()]
    return f"there is no such setting{nearest(str(where[-1]), known)}"
