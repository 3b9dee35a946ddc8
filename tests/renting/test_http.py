"""One request, and what is known after it."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from aquarat_core.errors import UsageError
from aquarat_pipeline.renting.clouds.http import USER_AGENT, JsonClient, NotSent, Reply, Unclear, redacted
from aquarat_pipeline.renting.clouds.model import Limits
from tests.patience import limit
from tests.serving import free_port

KEY = "secret-canary-5a1d"
OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}'


class Wire:
    """Answers every connection with the same bytes, and keeps what it was sent."""

    def __init__(self, answer: bytes, context: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.received: list[bytes] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/api/v1"
        if context is not None:
            self.server = context.wrap_socket(self.server, server_side=True)

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except ssl.SSLError:
                continue  # the client does not trust us
            except OSError:
                return
            with connection:
                connection.settimeout(limit(5))
                self.received.append(_request(connection))
                connection.sendall(self.answer)


def _request(connection: socket.socket) -> bytes:
    raw = b""
    while b"\r\n\r\n" not in raw and (more := connection.recv(65536)):
        raw += more
    head, _, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    while length and len(body) < int(length[1]) and (more := connection.recv(65536)):
        body += more
    return head + b"\r\n\r\n" + body


@contextmanager
def wire(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[Wire]:
    made = Wire(answer, context)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        # Closing alone does not wake a thread that waits in accept().
        socket.socket.shutdown(made.server, socket.SHUT_RDWR)
        made.server.close()
        thread.join(limit(5))


def test_a_request_on_the_wire() -> None:
    with wire(OK) as server:
        assert JsonClient(server.address, KEY).call("POST", "/things", {"name": "x"}) == Reply(200, {"a": 1})
    [raw] = server.received
    head, _, body = raw.partition(b"\r\n\r\n")
    assert sorted(head.decode().split("\r\n")) == sorted(
        [
            "POST /api/v1/things HTTP/1.1",
            f"Host: {server.address.split('/')[2]}",
            "Accept-Encoding: identity",
            f"User-Agent: {USER_AGENT}",
            "Accept: application/json",
            f"Authorization: Bearer {KEY}",
            "Content-Type: application/json",
            "Content-Length: 13",
        ]
    )
    assert body == b'{"name": "x"}'


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 8\r\n\r\n{"a": 1}',
        b'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\n{"a": 1}',
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"a": 1}',
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a": 1}',
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\nNaN",
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n',
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n1e99999999999999999999",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b"9" * 5000,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 307 Elsewhere\r\nLocation: /x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 408 Slow\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 502 Bad\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
def test_other_answers_are_unclear_and_asked_for_once(answer: bytes) -> None:
    with wire(answer) as server, pytest.raises(Unclear):
        JsonClient(server.address, KEY).call("POST", "/things", {})
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [200, 201, 400, 401, 403, 404, 409, 422])
def test_statuses_that_decide(status: int) -> None:
    with wire(OK.replace(b"200 OK", f"{status} X".encode())) as server:
        assert JsonClient(server.address, KEY).call("GET", "/things") == Reply(status, {"a": 1})


def test_chunks_and_parameters_of_the_type_are_fine() -> None:
    chunked = b'Transfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n5\r\n": 1}\r\n0\r\n\r\n'
    with wire(b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n" + chunked) as server:
        assert JsonClient(server.address, KEY).call("GET", "/things").data == {"a": 1}


def test_the_key_is_nowhere_but_in_the_header() -> None:
    echo = f"HTTP/1.1 500 X\r\nContent-Type: text/plain\r\n\r\nyour key {KEY} is fine".encode()
    with wire(echo) as server, pytest.raises(Unclear) as told:
        client = JsonClient(server.address, KEY)
        client.call("GET", "/things")
    assert KEY not in str(told.value) and "your key [key] is fine" in str(told.value)
    assert KEY not in repr(client)
    assert told.value.__cause__ is None and told.value.__suppress_context__


def test_a_long_answer_is_not_read() -> None:
    with wire(OK) as server, pytest.raises(Unclear, match="too long"):
        JsonClient(server.address, KEY, Limits(body=7)).call("GET", "/things")


def test_what_refuses_a_connection_got_nothing() -> None:
    with pytest.raises(NotSent, match="cannot be reached"):
        JsonClient(f"http://127.0.0.1:{free_port()}", KEY).call("POST", "/things", {})


def test_a_name_that_nobody_knows_got_nothing() -> None:
    with pytest.raises(NotSent, match=r"nowhere\.invalid cannot be reached"):
        JsonClient("https://nowhere.invalid/v2", KEY).call("POST", "/things", {})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a server that nobody vouches for."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", folder / "both.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "both.pem").write_bytes((folder / "both.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return folder


@pytest.mark.parametrize("trusted", [True, False])
def test_https_asks_for_a_certificate_before_it_sends(
    certificate: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "both.pem")
    with wire(OK, context) as server:
        client = JsonClient(f"https://localhost:{server.port}/api", KEY)
        if trusted:
            assert client.call("GET", "/things").data == {"a": 1}
        else:
            with pytest.raises(NotSent, match="certificate"):
                client.call("GET", "/things")
            assert server.received == []


def _tunnel(listener: socket.socket, port: int, asked: list[bytes]) -> None:
    """A proxy for one connection."""
    client, _ = listener.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        asked.append(_request(client))
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")

        def pass_on(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while piece := source.recv(65536):
                    target.sendall(piece)
                target.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=pass_on, args=(server, client), daemon=True)
        back.start()
        pass_on(client, server)
        back.join(limit(5))


def test_a_proxy_sees_the_hosts_name_and_nothing_else(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "both.pem")
    asked: list[bytes] = []
    with wire(OK, context) as server, socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "elsewhere")
        proxy = threading.Thread(target=_tunnel, args=(listener, server.port, asked), daemon=True)
        proxy.start()
        client = JsonClient(f"https://localhost:{server.port}/api", KEY)
        assert client.call("GET", "/things").data == {"a": 1}
        proxy.join(limit(5))
    assert asked[0].startswith(f"CONNECT localhost:{server.port} HTTP/1".encode())
    assert KEY.encode() not in asked[0]
    assert KEY.encode() in server.received[0]


@pytest.mark.parametrize(
    "address",
    ["http://example.com/v1", "http://10.0.0.5", "ftp://127.0.0.1", "cloud.lambda.ai", "https://", "https://u:p@host/v1",
     "https://host/v1?x=1"],
)  # fmt: skip
def test_a_key_is_only_sent_over_https(address: str) -> None:
    with pytest.raises(UsageError, match=r"only sent over https|not the address of an API"):
        JsonClient(address, KEY)


def test_a_key_is_redacted_but_not_every_letter() -> None:
    assert redacted(f"a {KEY} b {KEY}", KEY) == "a [key] b [key]"
    assert redacted("hyperbolic", "y") == "hyperbolic"
    assert redacted("text", "") == "text"


def test_netrc_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password theirs\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with wire(OK) as server:
        JsonClient(server.address, KEY).call("GET", "/things")
    assert f"Authorization: Bearer {KEY}".encode() in server.received[0]
    assert b"Basic" not in server.received[0]
