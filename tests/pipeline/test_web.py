"""The guard in front of Dagster's real web server: other pages get nothing, and the UI and programs are let in.

That the UI works behind it is tested in a browser, in `tests/browser`.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_pipeline.web import Guard
from tests.patience import limit
from tests.serving import dagster_ui

pytestmark = pytest.mark.slow

MUTATION = "mutation { setNuxSeen }"
QUESTION = {"query": "{ version }"}


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The UI of a toy code location; its address."""
    home = tmp_path_factory.mktemp("home")
    (home / "toys.py").write_text("import dagster as dg\n@dg.asset\ndef toy(): ...\ndefs = dg.Definitions([toy])\n")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    env = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(root), "DAGSTER_DISABLE_TELEMETRY": "1"}
    env |= {"AQUARAT_STORE": f"file://{home}/store", "AQUARAT_CACHE": str(home / "cache")}
    publish(home)
    with dagster_ui(["-f", "toys.py"], home / "log", home, env) as url:
        yield url


def publish(home: Path) -> None:
    """A report whose page holds a script, as the latest `rl_eval_report` of the store in `home`."""
    content, records = home / "content", home / "records"
    for folder in (content, records):
        folder.mkdir()
    (content / "report.json").write_text("{}")
    (records / "report.html").write_text("<title>A report</title><script>document.title = 'changed'</script>")
    ArtifactStore.open(f"file://{home}/store").publish(
        asset="rl_eval_report", kind="report", directory=content, records=records, config={}, profile="demo",
        code=CodeVersion(version="c"), parents=(), metrics={}, seeds={}, run_id="run",
    )  # fmt: skip


def test_the_page_of_a_report_is_served_so_that_it_can_run_nothing(server: str) -> None:
    page = requests.get(f"{server}/aquarat/reports/rl_eval_report", timeout=limit(60))
    assert page.status_code == 200 and page.history[0].headers["location"].startswith("/aquarat/reports/")
    sha256 = page.url.rpartition("/")[2]
    assert len(sha256) == 64 and requests.get(page.url[:-56], timeout=limit(60)).url == page.url, "eight digits do"
    assert "<title>A report</title>" in page.text
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox ") and "default-src 'none'" in policy and "allow-scripts" not in policy
    assert page.headers["X-Frame-Options"] == "DENY"
    assert requests.get(f"{server}/aquarat/reports/nope", timeout=limit(60)).status_code == 404
    assert requests.get(f"{server}/aquarat/runs", timeout=limit(60)).status_code == 200
    assert requests.get(f"{server}/aquaratic", timeout=limit(60)).headers["content-type"].startswith("text/html")


def test_our_pages_are_behind_the_guard_too(server: str) -> None:
    for headers in ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}):
        refused = requests.get(f"{server}/aquarat/reports/rl_eval_report", headers=headers, timeout=limit(60))
        assert refused.status_code == 403


def ask(server: str, **headers: str) -> int:
    return requests.post(f"{server}/graphql", json=QUESTION, headers=headers, timeout=limit(30)).status_code


def test_the_ui_and_programs_are_let_in(server: str) -> None:
    assert requests.post(f"{server}/graphql", json=QUESTION, timeout=limit(30)).json()["data"]["version"]
    same = {"Origin": server, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert ask(server, **same) == 200
    page = requests.get(server, headers={"Sec-Fetch-Site": "none"}, timeout=limit(30))
    assert page.status_code == 200
    assert page.headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert requests.get(server, headers=link, timeout=limit(30)).status_code == 200, "a link on another page"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:3000"},
        {"Host": ""},
    ],
    ids=str,
)
def test_other_pages_and_names_are_refused(server: str, headers: dict[str, str]) -> None:
    assert ask(server, **headers) == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 101),
        ({"Origin": "http://127.0.0.1:PORT"}, 101),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
    ids=str,
)
def test_sockets_of_other_pages_are_not_opened(server: str, headers: dict[str, str], status: int) -> None:
    """A browser sends cookies and an Origin with a WebSocket's handshake, and asks no server beforehand."""
    place = urllib.parse.urlsplit(server)
    handshake = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Protocol": "graphql-ws",
    }  # fmt: skip
    given = {name: value.replace("PORT", str(place.port)) for name, value in headers.items()}
    connection = http.client.HTTPConnection(place.netloc, timeout=limit(30))
    try:
        connection.request("GET", "/graphql", headers=handshake | given)
        assert connection.getresponse().status == status
    finally:
        connection.close()


def test_nothing_is_done_by_opening_an_address(server: str) -> None:
    address = f"{server}/graphql?{urllib.parse.urlencode({'query': MUTATION})}"
    for headers in ({}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}):
        assert requests.get(address, headers=headers, timeout=limit(30)).status_code == 403
    refused = requests.get(address, timeout=limit(30))
    assert refused.text == "GraphQL is only accepted by POST: opening a link must not change anything\n"
    assert refused.headers["X-Frame-Options"] == "DENY"


def asked(kind: str, **headers: str) -> list[dict[str, Any]]:
    """What the guard alone sends for a request that it refuses, or that its application answers."""
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "let in"})

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "path": "/graphql", "headers": raw, "query_string": b""}
    asyncio.run(Guard(application, ["ui.example"])(scope, receive, send))
    return sent


def test_sockets_of_other_pages_are_closed() -> None:
    assert asked("websocket", host="localhost:3000", origin="http://localhost:3000") == [{"type": "let in"}]
    assert asked("websocket", host="ui.example", origin="https://ui.example") == [{"type": "let in"}]
    for headers in (
        {"host": "localhost:3000", "origin": "https://evil.example"},
        {"host": "evil.example:3000", "origin": "http://evil.example:3000"},
        {"host": "[::1", "origin": "http://[::1"},
        {"host": "localhost:3000", "origin": "http://[::1"},
    ):
        (closed,) = asked("websocket", **headers)
        assert (closed["type"], closed["code"]) == ("websocket.close", 1008), headers
