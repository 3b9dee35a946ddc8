"""`aquarat report`: where a report's page is, and how to look at it: here, or from another machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquarat_core.cli.artifacts import add_artifact, add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer, log
from aquarat_core.errors import UsageError

if TYPE_CHECKING:
    from aquarat_core.artifacts import Artifact

PAGE = "report.html"
HEADERS: Mapping[str, str] = {
    # The store's content is not trusted: a page can neither run scripts nor load anything.
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


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
        help="serve the page on 127.0.0.1 until Ctrl-C (default: a free port)",
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
        _serve(path, arguments.serve, report.asset)
        return ""
    if arguments.open:
        _open(path)
    hint = f"To read it from another machine: aquarat report {arguments.what} --serve"
    if sys.stdout.isatty() and not arguments.json:
        log(hint if arguments.open else f"To open it: aquarat report {arguments.what} --open\n{hint}")
    return answer(arguments, facts, str(path))


def _with_page(artifact: Artifact) -> Artifact:
    """The artifact itself if it has a page, else the newest report about it. Raises `UsageError` if there is none."""
    if _has_page(artifact):
        return artifact
    from aquarat_core.artifacts.survey import readable_artifacts
    from aquarat_core.evaluation.looks import reports_about

    about = [one for one in reports_about(artifact, readable_artifacts(artifact.store).values()) if _has_page(one)]
    if not about:
        raise UsageError(
            f"{artifact.asset} {artifact.sha256[:12]} is a {artifact.manifest.kind} without a page, and no report is "
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


def _serve(path: Path, port: int, name: str) -> None:
    """Serves the one page on loopback until Ctrl-C."""
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(path.read_bytes()))
    except OSError as e:
        raise UsageError(f"port {port} cannot be used ({e.strerror}): choose another, or leave it out") from None
    with server:
        port = server.server_port
        print(f"http://127.0.0.1:{port}/", flush=True)
        log(
            f"{name} until Ctrl-C. From another machine: ssh -L {port}:127.0.0.1:{port} {_me()}, then open that address"
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log("")


def _me() -> str:
    import getpass
    import socket

    return f"{getpass.getuser()}@{socket.gethostname()}"


def _handler(page: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers with the page, and only under a name of this machine: another page could have its name lead here."""

        timeout = 30
        server_version, sys_version = "aquarat", ""

        def do_GET(self) -> None:
            self._answer(page)

        def do_HEAD(self) -> None:
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            assert isinstance(self.server, ThreadingHTTPServer)
            port = self.server.server_port
            if self.headers.get("Host") not in {f"127.0.0.1:{port}", f"localhost:{port}"}:
                self.send_error(403, "Only under 127.0.0.1 or localhost")
                return
            if self.path != "/":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not worth a line."""

    return Handler
