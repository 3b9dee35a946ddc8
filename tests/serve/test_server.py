"""What the server does with clients that are foreign, too many, too slow or gone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from aquarat_core.serving import protocol
from aquarat_core.serving.guard import Receive, Scope, Send
from aquarat_core.settings import REPO_ROOT
from tests.patience import limit, wait_until
from tests.serve import web_store
from tests.serve.conftest import Server, running

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
ASK = {"model": "toy", "messages": [{"role": "user", "content": "Hi"}], "temperature": 1.0}


def metric(server: Server, name: str) -> float:
    text = requests.get(f"{server.url}/metrics", timeout=limit(10)).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*?}})? (\S+)$", text, re.MULTILINE))


def begin(server: Server, **body) -> socket.socket:
    """A connection on which a streamed answer has begun."""
    content = json.dumps(ASK | {"stream": True} | body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=limit(20))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    return connection


def test_health_and_metrics(server: Server) -> None:
    assert requests.get(f"{server.url}/health", timeout=limit(10)).json() == {"status": "ok", "models": ["toy"]}
    before = metric(server, "aquarat_generated_tokens_total")
    made = requests.post(f"{server.url}/v1/chat/completions", json=ASK | {"max_tokens": 9}, timeout=limit(20)).json()
    assert metric(server, "aquarat_generated_tokens_total") - before == made["usage"]["completion_tokens"]
    assert metric(server, "aquarat_completions_total") >= 1 and metric(server, "aquarat_rows") == 64
    assert metric(server, "process_resident_memory_bytes") > 1e6


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Host": "10.0.0.1"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics", "/", "/nothing"])
def test_other_pages_and_names_are_refused(server: Server, headers: dict[str, str], path: str) -> None:
    answer = requests.get(f"{server.url}{path}", headers=headers, timeout=limit(10))
    assert answer.status_code == 403
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_its_own_pages_are_not(server: Server) -> None:
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert requests.get(f"{server.url}/v1/models", headers=own, timeout=limit(10)).ok


def test_every_response_is_closed(server: Server) -> None:
    for path in ("/v1/models", "/health", "/nothing", "/v1/models/other"):
        headers = requests.get(f"{server.url}{path}", timeout=limit(10)).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
        assert "access-control-allow-origin" not in headers


def test_a_body_that_is_too_large_is_not_read(server: Server) -> None:
    large = b"x" * (2 << 20)
    for body in (large, iter([large])):  # with its length, and in chunks
        try:
            answer = requests.post(f"{server.url}/v1/chat/completions", data=body, timeout=limit(20))
        except requests.ConnectionError:
            continue  # it was closed while the client still wrote
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"
    assert requests.get(f"{server.url}/health", timeout=limit(10)).ok


@pytest.mark.parametrize("endless", [b"X: " + b"a" * 1000, b"X: a\r\n" * 200])
def test_a_head_that_does_not_end_is_not_kept(server: Server, endless: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=limit(20)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(ConnectionError):
            for _ in range((32 << 20) // len(endless)):
                connection.sendall(endless)
    assert requests.get(f"{server.url}/health", timeout=limit(10)).ok


def test_a_head_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    with web_store.running(app, http=protocol.Protocol) as url:
        for begun in (b"", b"GET / HT", HEAD, HEAD + b"\r\nGET"):
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=limit(20)) as connection:
                connection.sendall(begun)
                answer = b"".join(iter(lambda: connection.recv(1000), b""))
                assert answer.startswith(b"HTTP/1.1 200") == (b"\r\n\r\n" in begun)
        assert requests.get(url, timeout=limit(10)).ok


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux gives up such clients")
def test_a_client_that_takes_nothing_of_a_whole_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (32 << 20)})
        ended.set()

    ended = threading.Event()
    monkeypatch.setattr(protocol, "TAKE_SECONDS", 1.0)
    with (
        web_store.running(app, protocol.give_up_idle_takers) as url,
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=limit(20)) as connection,
    ):
        connection.sendall(HEAD + b"\r\n")
        assert ended.wait(limit(20))
        # The client is not told: it learns it when it takes more.
        ends = f":{connection.getpeername()[1]:04X} ", f":{connection.getsockname()[1]:04X} "
        server_side = re.compile(rf"^ *\d+: \w+{ends[0]}\w+{ends[1]}", re.MULTILINE)
        assert server_side.search(Path("/proc/net/tcp").read_text())
        wait_until(lambda: not server_side.search(Path("/proc/net/tcp").read_text()), 60, "it is given up")


def test_an_answer_ends_when_its_client_goes(server: Server) -> None:
    open_ones = [begin(server, max_tokens=200, seed=n) for n in range(5)]
    for connection in open_ones:
        connection.close()
    wait_until(lambda: metric(server, "aquarat_running") == 0, 20, "abandoned answers end")
    with pytest.raises(requests.Timeout):
        body = ASK | {"max_tokens": 200, "n": 16}
        requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.05)
    wait_until(lambda: metric(server, "aquarat_running") == 0, 20, "an answer nobody waits for ends")


def test_more_than_may_wait_are_sent_away(folder: Path, tmp_path: Path) -> None:
    with running([folder], tmp_path / "log", "--streams", "1", "--waiting", "1") as server:
        first, second = (begin_unread(server, max_tokens=240) for _ in range(2))
        wait_until(lambda: metric(server, "aquarat_running") + metric(server, "aquarat_waiting") == 2, 20, "both asked")
        answer = requests.post(f"{server.url}/v1/chat/completions", json=ASK, timeout=limit(20))
        assert answer.status_code == 429 and answer.headers["retry-after"]
        assert "try again" in answer.json()["error"]["message"]
        first.close()
        second.close()
        wait_until(lambda: metric(server, "aquarat_running") + metric(server, "aquarat_waiting") == 0, 20, "both end")
        answer = requests.post(f"{server.url}/v1/chat/completions", json=ASK | {"max_tokens": 3}, timeout=limit(20))
        assert answer.ok


def test_an_answer_that_waits_leaves_with_its_client(folder: Path, tmp_path: Path) -> None:
    with running([folder], tmp_path / "log", "--streams", "1", "--waiting", "2") as server:
        endless = {"max_tokens": 240, "temperature": 1000.0}
        long = begin_unread(server, stream=True, **endless)
        wait_until(lambda: metric(server, "aquarat_running") == 1, 20, "the first one is asked")
        waiting = [begin_unread(server, stream=stream, **endless) for stream in (True, False)]
        wait_until(lambda: metric(server, "aquarat_waiting") == 2, 20, "two wait")
        for connection in waiting:
            connection.close()
        wait_until(lambda: metric(server, "aquarat_waiting") == 0, 20, "nobody waits")
        long.close()


def begin_unread(server: Server, **body) -> socket.socket:
    content = json.dumps(ASK | {"n": 1} | body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=limit(20))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def test_an_answer_that_takes_too_long_is_given_up(folder: Path, tmp_path: Path) -> None:
    with running([folder], tmp_path / "log", "--timeout", "0.001") as server:
        body = ASK | {"max_tokens": 200}
        answer = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=limit(20))
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"


def test_elsewhere_than_on_loopback_a_token_is_needed(folder: Path, tmp_path: Path) -> None:
    token = "a-token-of-the-users-own"
    environment = {"AQUARAT_SERVE_TOKEN": token}
    with running([folder], tmp_path / "log", "--host", "0.0.0.0", environment=environment) as server:
        url, wait = server.url, limit(10)
        assert requests.get(f"{url}/health", timeout=wait).ok  # monitors need none
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": token}, {"Cookie": "aquarat_token=x"}):
            assert requests.get(f"{url}/v1/models", headers=given, timeout=wait).status_code == 401
        assert requests.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {token}"}, timeout=wait).ok
        page = requests.get(f"{url}/", headers={"Accept": "text/html"}, timeout=wait)
        assert page.url == f"{url}/login" and "<form" in page.text
        assert page.headers["referrer-policy"] == "same-origin", "else browsers send the form with the origin null"
        wrong = requests.post(f"{url}/login", data={"token": "guess"}, timeout=wait)
        assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
        browser = requests.Session()
        browser.post(f"{url}/login", data={"token": token}, timeout=wait, allow_redirects=False)
        assert browser.get(f"{url}/v1/models", timeout=wait).ok
        cookie = next(iter(browser.cookies))
        assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite") == "lax"
        # Those of servers at other ports come along, in any form.
        for others in (
            'state={"a": 1}; aquarat_token={}',
            "aquarat_token={}; aquarat_token=theirs",
            "a b; aquarat_token={}",
        ):
            sent = {"Cookie": others.replace("={}", f"={token}")}
            assert requests.get(f"{url}/v1/models", headers=sent, timeout=wait).ok, others
        assert requests.get(f"{url}/v1/models", headers={"Host": "evil.example"}, timeout=wait).status_code == 403
        assert token not in server.log.read_text()


def test_a_weak_token_is_refused(folder: Path, tmp_path: Path) -> None:
    made = serve(folder, "--host", "0.0.0.0", AQUARAT_SERVE_TOKEN="short")
    assert made.returncode == 2 and "16" in made.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "99999"], "no port"),
        (["--streams", "0"], "--streams must be above 0"),
        (["--max-new-tokens", "-1"], "--max-new-tokens"),
        (["--timeout", "nan"], "--timeout must be above 0"),
        (["--waiting", "-1"], "--waiting"),
        (["--host", "256.1.1.1"], "cannot listen"),
    ],
)
def test_a_wrong_argument_is_said_in_a_line(folder: Path, arguments: list[str], said: str) -> None:
    made = serve(folder, *arguments)
    assert made.returncode == 2 and said in made.stderr and "Traceback" not in made.stderr


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(folder: Path, server: Server) -> None:
    made = serve(folder, "--port", str(server.port))
    assert made.returncode == 2 and "--port" in made.stderr and "loading" not in made.stderr


def test_without_a_checkpoint_it_says_how_to_get_one(tmp_path: Path) -> None:
    made = serve("--store", f"file://{tmp_path}/store")
    assert made.returncode == 2 and "./run demo" in made.stderr


def test_one_name_twice_is_refused(folder: Path) -> None:
    made = serve(folder, folder)
    assert made.returncode == 2 and "given twice" in made.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_told_to_while_answering(folder: Path, tmp_path: Path, sent: signal.Signals) -> None:
    with running([folder], tmp_path / "log") as server:
        open_one = begin(server, max_tokens=240)
        server.process.send_signal(sent)
        server.process.wait(limit(20))
        open_one.close()
        assert "Traceback" not in server.log.read_text()
    with socket.create_server(("127.0.0.1", server.port)):
        pass  # the port is free again


def serve(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aquarat_core.cli", "serve", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=REPO_ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=limit(60),
        check=False,
    )
