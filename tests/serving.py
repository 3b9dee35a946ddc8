"""Servers of the tests' own, in a thread for as long as they are needed, and ports for those in processes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from typing import TypeVar

Server = TypeVar("Server", bound=HTTPServer)


def free_port() -> int:
    """A port of the loopback address that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Serves until the block ends; then the port is free and the thread has ended."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
