"""The accounts that can be asked: those of rent.yaml, and those that only have a key in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aquarat_core.errors import UsageError
from aquarat_pipeline.renting.clouds.cloud import KINDS, Account, accounts_in_environment
from aquarat_pipeline.renting.config import FILE, RentConfig, RentConfigError, read_config
from aquarat_pipeline.renting.ordering.selecting import nearest


def accounts(config: RentConfig, environ: Mapping[str, str], wanted: str | None = None) -> list[Account]:
    """Those of rent.yaml, and for clouds that it does not name, those with a key in the environment.

    Raises `UsageError` if there is none, or none of the name that is wanted.
    """
    known = {name: config.account(name) for name in config.accounts}
    configured = {account.cloud for account in known.values()}
    known |= {one.name: one for one in accounts_in_environment(environ) if one.cloud not in configured}
    if not known:
        ways = " or ".join(f"{kind.key_variable} ({kind.keys_page})" for kind in KINDS.values() if kind.key_variable)
        raise UsageError(f"no cloud can be asked, because there is no key: set {ways} in .env, or write {FILE}")
    if wanted is not None and wanted not in known:
        raise UsageError(f"there is no account {wanted!r}{nearest(wanted, list(known))}")
    return [account for name, account in known.items() if wanted in (None, name)]


def config_of(environ: Mapping[str, str]) -> tuple[RentConfig, str | None]:
    """The rent.yaml of DAGSTER_HOME if there are both, and why it cannot be used.

    For commands that must work without them: looking at offers, and ending what is overdue.
    """
    home = environ.get("DAGSTER_HOME")
    if not home:
        return RentConfig(), None
    try:
        return read_config(Path(home)), None
    except RentConfigError as e:
        return RentConfig(), f"{e}. Only accounts with a key in the environment are asked"
