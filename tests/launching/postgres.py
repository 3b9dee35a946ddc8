"""Debian's PostgreSQL for a test: a server of its own, run by an ordinary user, on a socket and a loopback port."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from aquarat_core.settings import REPO_ROOT
from tests.patience import limit, wait_until
from tests.serving import free_port

ROLE = "dagster"
PASSWORD = "AQUARAT_POSTGRES_PASSWORD"


def programs() -> Path | None:
    """The folder with PostgreSQL's server, where Debian or a PATH has it."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.partition(".")[0]))
    on_path = shutil.which("initdb")
    folders = [*reversed(debian), *([Path(on_path).resolve().parent] if on_path else [])]
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def why_not() -> str | None:
    """Why there can be no Dagster on PostgreSQL here, or None if there can."""
    if programs() is None:
        return "there is no PostgreSQL: apt install postgresql"
    for module in ("dagster_postgres", "psycopg2"):
        if find_spec(module) is None:
            return f"{module} is not installed: ./run setup --postgres"
    return None


class Postgres:
    """A server with an empty database; the role's password is random."""

    def __init__(self, folder: Path) -> None:
        bin = programs()
        assert bin is not None
        self._bin, self.folder, self.port = bin, folder, free_port()
        self.password = secrets.token_hex(16)
        # PostgreSQL refuses to run as root; the folder must then belong to somebody else, and be reached by them.
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._as: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        secret = folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o600)
        if user:
            for path in (folder, secret):
                os.chown(path, user.pw_uid, user.pw_gid)
        self._run("initdb", "-D", "data", "-U", ROLE, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8",
                  "--locale=C", "--no-sync")  # fmt: skip
        secret.unlink()
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder,
                   "fsync": "off", "max_connections": 50}  # fmt: skip
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._bin / "postgres", "-D", "data", *arguments], cwd=self.folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True, **self._as,
            )  # fmt: skip
        wait_until(self._answers, 30, f"PostgreSQL answers; see {self.folder}/log", pause=0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """By default as for a restart: connections are cut."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(limit(30))
            self._server = None

    def ask(self, query: str) -> str:
        """What the query gives, as `psql` prints it."""
        return self._run("psql", "-h", str(self.folder), "-p", str(self.port), "-U", ROLE, "-d", "postgres", "-Atc",
                         query, env={**os.environ, "PGPASSWORD": self.password})  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """What Dagster's processes need to log in."""
        return {PASSWORD: self.password}

    def storage(self) -> dict[str, Any]:
        """The section `storage` of a `dagster.yaml`: that of the example, for this server."""
        example = yaml.safe_load((REPO_ROOT / "dagster_home/postgres.example.yaml").read_text())["storage"]
        database = example["custom"]["config"]["postgres_db"]
        assert database["password"] == {"env": PASSWORD}
        database.update(hostname="127.0.0.1", port=self.port, username=ROLE, db_name="postgres")
        return example

    def _answers(self) -> bool:
        assert self._server is not None and self._server.poll() is None, (self.folder / "log").read_text()
        ready = [self._bin / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port)]
        return subprocess.run(ready).returncode == 0

    def _run(self, program: str, *arguments: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [self._bin / program, *arguments], cwd=self.folder, env=env, capture_output=True, text=True, **self._as
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server in a folder of its own, which goes with it."""
    # Not below pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="aquarat-pg-", dir="/tmp") as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)
