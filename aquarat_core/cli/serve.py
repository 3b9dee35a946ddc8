"""`aquarat serve`: models in the browser and for OpenAI's clients."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aquarat_core.cli.artifacts import add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.errors import MissingPackageError, UsageError

if TYPE_CHECKING:
    from aquarat_core.api import Model
    from aquarat_core.serving.site import Site

TOKEN = "AQUARAT_SERVE_TOKEN"
"""Environment variable with the token that clients of other machines must send."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "serve",
        help="serve models: a chat page, an explorer of evaluated questions, and an API like OpenAI's",
        description="Serves models on this machine: a chat page, an explorer of evaluated questions, the curves of "
        "running stages, and an API that OpenAI's clients speak (/v1). Ctrl-C ends it.",
    )
    command.add_argument(
        "models",
        nargs="*",
        metavar="WHAT",
        help="assets, names, manifest hashes, folders or hf://owner/name (default: the last checkpoint that the store "
        "has)",
    )
    command.add_argument("--port", type=int, default=8000, help="port (%(default)s; 0 takes a free one)")
    command.add_argument(
        "--host", default="127.0.0.1",
        help=f"address to listen at (%(default)s); at another one, requests need the token in {TOKEN}, or the one that "
        "the server prints",
    )  # fmt: skip
    command.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a further name that the server is reached by, for example behind a proxy; can be repeated",
    )  # fmt: skip
    command.add_argument(
        "--streams", type=int, default=64, help="answers to generate at a time per model (%(default)s)"
    )
    command.add_argument("--waiting", type=int, default=256, help="further ones that may wait (%(default)s)")
    command.add_argument("--max-new-tokens", type=int, default=1024, help="maximum length of an answer (%(default)s)")
    command.add_argument("--timeout", type=float, default=600.0, help="seconds that an answer may take (%(default)s)")
    command.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="type to compute in (default: what suits the hardware)"
    )
    add_store(command)
    command.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> str:
    _check(arguments)
    try:
        import prometheus_client  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import starlette  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import uvicorn
    except ImportError as e:
        raise MissingPackageError("aquarat serve", e.name or "a package", "serve") from None
    with _listen(arguments.host, arguments.port) as listening:  # before the models are loaded: it may fail
        host, port = listening.getsockname()[:2]
        token = _token(arguments.host)
        site = _site(arguments)
        from aquarat_core.serving.app import application
        from aquarat_core.serving.protocol import MAX_HEAD, Protocol, give_up_idle_takers

        give_up_idle_takers(listening)
        app = application(site, arguments.allow_host, token)
        _say(site, f"http://{f'[{host}]' if ':' in host else host}:{port}", token)
        logging.getLogger("uvicorn.error").addFilter(lambda record: record.exc_info is not None)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3,
            http=Protocol, h11_max_incomplete_event_size=MAX_HEAD, ws="none",
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listening])
    return "stopped"


def _check(arguments: argparse.Namespace) -> None:
    """Raises `UsageError` for a number that is out of range."""
    for name in ("streams", "max_new_tokens", "timeout"):
        if not getattr(arguments, name) > 0:  # NaN is above nothing
            raise UsageError(f"--{name.replace('_', '-')} must be above 0")
    if arguments.waiting < 0:
        raise UsageError("--waiting must not be below 0")
    if not 0 <= arguments.port < 65536:
        raise UsageError(f"--port {arguments.port} is no port: it must be from 0 to 65535")


def _listen(host: str, port: int) -> socket.socket:
    """Raises `UsageError` if the port cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(1024)
        except BaseException:
            listening.close()
            raise
    except OSError as e:
        raise UsageError(f"cannot listen at {host} port {port}: {e.strerror}. Choose another with --port") from None
    return listening


def _token(host: str) -> str | None:
    """The token that requests need; None on loopback unless one was set. Raises `UsageError` for one that is weak."""
    token = os.environ.get(TOKEN, "").strip()
    if token and (len(token) < 16 or not token.isascii() or not token.isprintable()):
        raise UsageError(f"{TOKEN} must have at least 16 ASCII characters")
    if token or host in LOOPBACK:
        return token or None
    return secrets.token_urlsafe(24)


def _site(arguments: argparse.Namespace) -> Site:
    """Loads the models."""
    from aquarat_core.serving.capacity import rows_that_fit
    from aquarat_core.serving.site import Served, Site
    from aquarat_core.serving.worker import Limits, Worker

    models = _models(arguments.models or [_last_checkpoint(arguments.store)], arguments.store, arguments.dtype)
    limits: dict[str, Limits] = {}
    for name, model in models.items():
        longest = min(arguments.max_new_tokens, model.config.sequence_len - 1)
        rows = rows_that_fit(model, arguments.streams, longest, len(models))
        limits[name] = Limits(rows, arguments.waiting, longest)
    worker = Worker(models, limits)
    served = {name: Served(name, model, worker) for name, model in models.items()}
    return Site(served, worker, arguments.store, arguments.timeout)


def _models(names: list[str], store: str, dtype: str | None) -> dict[str, Model]:
    from aquarat_core.loading import load

    models: dict[str, Model] = {}
    for name in names:
        # Clients see the name of a folder, but not the path that leads to it.
        called = Path(name).expanduser().resolve().name if name[:1] in "./~" else name
        if called in models:
            raise UsageError(f"{called} is given twice")
        print(f"loading {name}", file=sys.stderr, flush=True)
        models[called] = load(name, store=store, dtype=dtype)
    return models


def _last_checkpoint(store: str) -> str:
    """The last checkpoint of the chain that the store has. Raises `UsageError` if it has none."""
    from aquarat_core.artifacts import ArtifactStore
    from aquarat_core.stages.registry import CHECKPOINTS

    made = ArtifactStore.open(store).assets()
    found = [name for name in CHECKPOINTS if name in made]
    if not found:
        raise UsageError(
            f"{store} has no checkpoint to serve: make one (./run demo), or name a folder or hf://owner/name"
        )
    return found[-1]


def _say(site: Site, url: str, token: str | None) -> None:
    from aquarat_core.artifacts.names import by_hash, shown

    stores = {served.artifact.store.uri: served.artifact.store for served in site.models.values() if served.artifact}
    known = {uri: by_hash(store) for uri, store in stores.items()}
    for name, served in site.models.items():
        held = shown(served.artifact, known[served.artifact.store.uri]) if served.artifact else "from a folder"
        rows = site.worker.limits[name].rows
        print(f"{name}: {held}, {rows} answers at a time on {served.model.device}", file=sys.stderr)
    print(f"serving on {url} (API: {url}/v1)", file=sys.stderr)
    if token and not os.environ.get(TOKEN):
        print(f"token: {token}", file=sys.stderr)
    sys.stderr.flush()
