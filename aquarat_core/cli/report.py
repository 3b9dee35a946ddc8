"""`aquarat report`: where a report's page is, and how to look at it: here, or from another machine."""

from __future__ import annotations

import argparse
import getpass
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aquarat_core.cli.artifacts import add_artifact, add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer, log
from aquarat_core.errors import MissingPackageError, UsageError

if TYPE_CHECKING:
    from aquarat_core.artifacts import Artifact

PAGE = "report.html"


def add_commands(commands: Commands) -> None:
    """Adds `report`."""
    command = commands.add_parser(
        "report",
        description="Prints the path of a report's page: a verified copy in the cache. For a checkpoint, it is the "
        "newest report about it.",
    )
    add_artifact(command, "what")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--open", action="store_true", help="open the page in the browser of this machine")
    how.add_argument(
        "--serve", nargs="?", type=int, const=0, metavar="PORT",
        help="serve the store's reports on 127.0.0.1 until Ctrl-C (default: a free port)",
    )  # fmt: skip
    add_store(command)
    add_json(command)
    command.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> str:
    from aquarat_core.artifacts.finding import find_artifact

    if arguments.serve is not None and not 0 <= arguments.serve < 65536:
        raise UsageError(f"--serve needs a port from 1 to 65535, not {arguments.serve}")
    report = _with_page(find_artifact(arguments.what, arguments.store))
    path = report.record(PAGE)
    facts = {"asset": report.asset, "manifest_sha256": report.sha256, "path": str(path)}
    if arguments.serve is not None:
        _serve(report, arguments.serve)
        return ""
    if arguments.open:
        _open(path)
    hint = f"To read it from another machine: aquarat report {arguments.what} --serve"
    if sys.stdout.isatty() and not arguments.json:
        log(hint if arguments.open else f"To open it: aquarat report {arguments.what} --open\n{hint}")
    return answer(arguments, facts, str(path))


def _with_page(artifact: Artifact) -> Artifact:
    """The artifact itself, or the newest report about a checkpoint. Raises `UsageError` if there is no page."""
    if _has_page(artifact):
        return artifact
    if artifact.manifest.kind != "checkpoint":
        raise UsageError(
            f"{artifact.asset} {artifact.sha256[:12]} is a {artifact.manifest.kind} without a page; only checkpoints "
            f"have reports about them. What is known about it: aquarat show {artifact.sha256[:12]}"
        )
    from aquarat_core.artifacts.survey import readable_artifacts
    from aquarat_core.evaluation.looks import reports_about

    about = [one for one in reports_about(artifact, readable_artifacts(artifact.store).values()) if _has_page(one)]
    if not about:
        raise UsageError(
            f"{artifact.asset} {artifact.sha256[:12]} is a checkpoint without a page, and no report is "
            "about it. Evaluate it: aquarat eval, or make its eval report"
        )
    return about[0]


def _has_page(artifact: Artifact) -> bool:
    return any(record.path == PAGE for record in artifact.manifest.records)


def _open(path: Path) -> None:
    """Opens the page. Raises `UsageError` without a display or a browser."""
    import webbrowser

    displays = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, displays)):
        raise UsageError(f"there is no display here to open {path} on: copy it, or use --serve and a tunnel")
    if not webbrowser.open(path.resolve().as_uri()):
        raise UsageError(f"no browser was found that could open {path}: copy it, or use --serve and a tunnel")


def _serve(report: Artifact, port: int) -> None:
    """Serves the store's reports on loopback until Ctrl-C, and prints the address of this one."""
    try:
        import uvicorn
        from starlette.applications import Starlette

        from aquarat_core.serving.catalog import Catalog
        from aquarat_core.serving.guard import Guard
        from aquarat_core.serving.pages import error_handlers
        from aquarat_core.serving.reports import routes
    except ModuleNotFoundError as e:
        raise MissingPackageError("aquarat report --serve", e.name or "a package", "serve") from None
    links = ("reports",)
    app = Starlette(routes=routes(Catalog(report.store.uri), links), exception_handlers=error_handlers(links))
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as e:
        raise UsageError(f"port {port} cannot be used ({e.strerror}): choose another, or leave it out") from None
    with listening:
        port = listening.getsockname()[1]
        print(f"http://127.0.0.1:{port}/reports/{report.sha256}", flush=True)
        tunnel = f"ssh -L {port}:127.0.0.1:{port} {getpass.getuser()}@{socket.gethostname()}"
        log(f"{report.asset} until Ctrl-C. From another machine: {tunnel}, then open that address")
        config = uvicorn.Config(Guard(app), log_level="warning", access_log=False, server_header=False, ws="none")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
