"""PostgreSQL as Dagster's storage, for `dagster.yaml`: every process waits for a database that is away for a while.

`dagster_postgres` gives up after six seconds, and whatever fails then ends its step: a database that restarts would
cost each run that trains. Here every operation of Dagster's storage is repeated until the database answers again or
the patience is over. An operation whose answer was lost is made twice, so a line of a run's log may then appear twice.

Like `dagster_postgres`, every process opens a connection for each operation and closes it afterwards, so a run that
waits holds none. The web server is the exception: it keeps connections, and soon answers a page with an error.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Self, TypeVar

import dagster as dg
import sqlalchemy
from sqlalchemy.exc import DBAPIError, OperationalError

from aquarat_core.errors import MissingPackageError
from aquarat_pipeline._compat import (
    ConfigurableClassData,
    DagsterStorage,
    EventLogStorage,
    RunStorage,
    ScheduleStorage,
)
from aquarat_pipeline.home import DatabaseError

PATIENCE_SECONDS = 600.0
"""How long a database that does not answer is waited for."""
WEB_PATIENCE_SECONDS = 3.0
"""The same in the web server, where somebody waits for a page."""
SAY_SECONDS = 30.0
RETRY_SECONDS = 1.0
REFUSED = ("password authentication failed", "no pg_hba.conf entry", "does not exist", "fe_sendauth")
"""What a server says to whom it will not admit later either; there is no code for it."""
AWAY = ("57P01", "57P02", "57P03", "53300")
"""PostgreSQL's codes for a server that shuts down, has crashed, is starting, or has no connection left."""
_OWN = {"dispose", "watch", "end_watch", "upgrade", "migrate", "optimize", "optimize_for_webserver"}
"""Methods of Dagster's interfaces that are no operations on data."""

T = TypeVar("T")


class Patience:
    """Repeats an operation while the database is away, and says so on stderr."""

    def __init__(self, where: str, seconds: float) -> None:
        self.seconds = seconds
        self._where = where
        self._lock = threading.Lock()
        self._since: float | None = None
        self._said = 0.0

    def __call__(self, operation: Callable[[], T]) -> T:
        """The operation's result. Raises `DatabaseError` if the patience is over or the database refuses us."""
        began = time.monotonic()
        while True:
            try:
                result = operation()
            except DBAPIError as e:
                if not _is_away(e):
                    raise
                why = str(e.orig).strip().splitlines()[0]
                if any(text in why for text in REFUSED):
                    raise DatabaseError(
                        f"the database at {self._where} refuses us ({why}): mend `storage` in dagster.yaml, or the "
                        "variable that holds the password"
                    ) from None
                if time.monotonic() - began >= self.seconds:
                    raise DatabaseError(
                        f"the database at {self._where} has not answered for {self.seconds:.0f} s ({why}): start it "
                        "again. Jobs go on meanwhile, and the daemon then resumes their runs"
                    ) from None
                self._away(why)
                time.sleep(RETRY_SECONDS)
            else:
                self._back()
                return result

    def _away(self, why: str) -> None:
        with self._lock:
            now = time.monotonic()
            self._since = self._since or now
            if now - self._said > SAY_SECONDS:
                self._said = now
                _say(f"the database at {self._where} does not answer ({why}): it is waited for, {self.seconds:.0f} s")

    def _back(self) -> None:
        with self._lock:
            since, self._since, self._said = self._since, None, 0.0
        if since is not None:
            _say(f"the database at {self._where} answers again, after {time.monotonic() - since:.0f} s")


def _is_away(e: DBAPIError) -> bool:
    """Whether the operation failed because of the connection, not because of what was asked."""
    code = getattr(e.orig, "pgcode", None)
    return e.connection_invalidated or code in AWAY or (code is None and isinstance(e, OperationalError))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _patient(storage: Any, interface: type, patience: Patience) -> Any:
    """The class `storage`, with every operation of Dagster's `interface` waiting for the database."""

    def waiting(method: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(method)(lambda *args, **kwargs: patience(lambda: method(*args, **kwargs)))

    def connect(self: Any) -> AbstractContextManager[Any]:
        return self._engine.connect()  # once: the operation around it is what is repeated

    def optimize_for_webserver(self: Any, *args: Any, **kwargs: Any) -> None:
        patience.seconds = WEB_PATIENCE_SECONDS
        storage.optimize_for_webserver(self, *args, **kwargs)

    names = {name for base in interface.__mro__ for name, what in vars(base).items() if inspect.isfunction(what)}
    names = {name for name in names - _OWN if not name.startswith("_")}
    changed: dict[str, Any] = {name: waiting(getattr(storage, name)) for name in names}
    changed |= {"__module__": __name__} | {name: connect for name in ("connect", "_connect") if hasattr(storage, name)}
    return type(f"Patient{storage.__name__}", (storage,), changed | {"optimize_for_webserver": optimize_for_webserver})


try:
    _postgres: Any = import_module("dagster_postgres")
    _utils: Any = import_module("dagster_postgres.utils")
except ModuleNotFoundError as e:
    raise MissingPackageError("PostgreSQL as Dagster's storage", e.name or "dagster-postgres", "postgres") from None


class PostgresStorage(_postgres.DagsterPostgresStorage):
    """Named in `dagster.yaml`; takes what Dagster's `storage: postgres` takes, and `patience_seconds`."""

    def __init__(
        self, url: str, patience_seconds: float, create_tables: bool, inst_data: ConfigurableClassData | None
    ) -> None:
        # Not the parent's `__init__`, which makes Dagster's own storages.
        DagsterStorage.__init__(self)
        self.postgres_url, self.should_autocreate_tables, self._inst_data = url, create_tables, inst_data
        parsed = sqlalchemy.make_url(url)
        patience = Patience(f"{parsed.host or parsed.query.get('host')}, port {parsed.port}", patience_seconds)
        patience(lambda: sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect().close())
        self._run_storage = _patient(_postgres.PostgresRunStorage, RunStorage, patience)(url, create_tables)
        self._event_log_storage = _patient(_postgres.PostgresEventLogStorage, EventLogStorage, patience)(
            url, create_tables
        )
        self._schedule_storage = _patient(_postgres.PostgresScheduleStorage, ScheduleStorage, patience)(
            url, create_tables
        )

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        wait = dg.Field(float, is_required=False, default_value=PATIENCE_SECONDS)
        return {**_utils.pg_config(), "patience_seconds": wait}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Raises `DatabaseError` if the database refuses us, or does not answer in time."""
        rest = {key: value for key, value in config_value.items() if key != "patience_seconds"}
        if rest.get("postgres_db", {}).get("scheme") == "postgresql":
            # For which SQLAlchemy 2.1 takes psycopg 3, with which Dagster's NOTIFY is a syntax error.
            rest["postgres_db"] = {**rest["postgres_db"], "scheme": "postgresql+psycopg2"}
        url = _utils.pg_url_from_config(rest)
        return cls(url, config_value["patience_seconds"], config_value["should_autocreate_tables"], inst_data)
