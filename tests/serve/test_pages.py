"""The pages: what a browser may run of them, what they say of models, errors, and the same pages on another server."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from aquarat_core.artifacts.names import give, take_away
from aquarat_core.serving import catalog, reports
from aquarat_core.serving.catalog import Catalog
from aquarat_core.serving.pages import LINKS, STATIC, error_handlers
from aquarat_core.serving.runs import routes as runs
from tests.factories import questions
from tests.patience import limit
from tests.serve.web_store import WebStore, get, running

PAGES = ("/", "/explore", "/runs", "/reports")
BROWSER = {"Accept": "text/html,application/xhtml+xml"}


def post(url: str, body: object) -> requests.Response:
    return requests.post(url, json=body, timeout=limit(30))


@pytest.mark.parametrize("path", PAGES)
def test_a_browser_runs_only_the_pages_own_blocks(url: str, path: str) -> None:
    page = get(url + path)
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    html = page.text
    for tag, name in (("script", "script-src"), ("style", "style-src")):
        (block,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert policy[name] == f"'sha256-{b64encode(sha256(block.encode()).digest()).decode()}'"
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data:"
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == "'none'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_one_file(url: str, path: str) -> None:
    html = re.sub(r"<(script|style)>.*?</\1>", "", get(url + path).text, flags=re.DOTALL)
    assert not re.search(r"\s(style|on[a-z]+)=", html), "the policy blocks these attributes"
    addresses = re.findall(r'(?:src|href|action)="([^"]*)"', html)
    assert all(one.startswith(("/", "#", "data:image/svg+xml")) for one in addresses)
    assert html.count('aria-current="page"') == 1


def test_scripts_put_no_text_on_a_page_as_html() -> None:
    for path in STATIC.glob("*.js"):
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        assert "</script" not in text


def test_a_field_has_a_label(url: str) -> None:
    for path in PAGES:
        html = get(url + path).text
        fields = re.findall(r'<(?:select|input|textarea)[^>]* id="([^"]+)"', html)
        assert all(f'for="{name}"' in html for name in fields), path


def test_a_person_reads_that_there_is_no_such_page_and_a_program_gets_json(url: str) -> None:
    page = requests.get(f"{url}/nothing/<b>", headers=BROWSER, timeout=limit(30))
    assert page.status_code == 404 and "There is no such page" in page.text
    assert "<b>" not in page.text and 'href="/explore"' in page.text
    assert "sha256-" in page.headers["content-security-policy"]
    assert get(f"{url}/nothing").json()["error"]["message"] == "Not Found"


def test_a_fault_is_a_page_that_says_where_to_look() -> None:
    def fail(_request: Request) -> Response:
        raise RuntimeError("a secret detail")

    app = Starlette(routes=[Route("/", fail)], exception_handlers=error_handlers(["chat"]))
    with running(app) as address:
        page = requests.get(address, headers=BROWSER, timeout=limit(30))
        assert page.status_code == 500 and "Its log" in page.text and "secret" not in page.text
        assert "secret" not in get(address).text


def test_the_chat_page_knows_its_models(url: str, web: WebStore) -> None:
    (model,) = get(f"{url}/chat/models").json()["models"]
    assert (model["id"], model["manifest"], model["context"]) == ("rl_checkpoint", web.rl.sha256, 256)
    assert model["letters"] == "ABCDE"
    assert "generated word problems" in model["warning"]


def test_the_chat_page_shows_the_names_that_a_model_has_now(
    url: str, web: WebStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> list[str]:
        return get(f"{url}/chat/models").json()["models"][0]["names"]

    monkeypatch.setattr(catalog, "FRESH_SECONDS", 0.0)
    assert names() == []
    give(web.rl, "my-best")
    try:
        assert names() == ["my-best"]
    finally:
        take_away(web.store, "my-best")
    assert names() == []


def test_a_letter_is_read_as_evaluations_read_it(url: str) -> None:
    def letter(text: str) -> str | None:
        return post(f"{url}/chat/answer", {"model": "rl_checkpoint", "text": text}).json()["letter"]

    assert letter("12 + 4 = 16.\nAnswer: C") == "C"
    assert letter("Answer: C or D") is None
    assert letter("Answer: F") is None


def test_the_chat_offers_a_question_of_an_evaluation(url: str) -> None:
    text = get(f"{url}/chat/example", model="rl_checkpoint").json()["text"]
    assert any(text.startswith(q.question) for q in questions())


def test_what_the_chat_page_cannot_ask(url: str) -> None:
    for body in ({}, [], {"model": "rl_checkpoint"}, {"model": "rl_checkpoint", "text": 1}):
        reply = post(f"{url}/chat/answer", body)
        assert reply.status_code == 400 and reply.json()["error"]["message"]
    reply = post(f"{url}/chat/answer", {"model": "x", "text": ""})
    assert reply.status_code == 404 and "this server has rl_checkpoint" in reply.json()["error"]["message"]
    assert requests.post(f"{url}/chat/answer", data=b"x" * (2 << 20), timeout=limit(30)).status_code == 413


def test_pages_can_be_mounted_on_another_server(web: WebStore) -> None:
    links = ("runs", "reports")
    routes = [*runs.routes(Catalog(web.uri), links), *reports.routes(Catalog(web.uri), links)]
    with running(Starlette(routes=[Mount("/aquarat", routes=routes)])) as address:
        page = get(f"{address}/aquarat/runs").text
        assert 'data-root="/aquarat"' in page
        assert re.findall(r'<a href="([^"#]+)"', page) == ["/aquarat/runs", "/aquarat/reports"]
        assert get(f"{address}/aquarat/reports/data").json()["explorer"] is False
        moved = requests.get(f"{address}/aquarat/reports/rl_eval_report", allow_redirects=False, timeout=limit(30))
        assert moved.headers["location"] == f"/aquarat/reports/{web.rl_report.sha256}"
        assert "/explore?" not in get(f"{address}/aquarat/reports/rl_eval_report").text


def test_pages_without_a_model_need_no_torch() -> None:
    """So that Dagster's web server can have them."""
    program = (
        "import sys; from aquarat_core.serving import reports; from aquarat_core.serving.runs import routes; "
        "print([name for name in ('torch', 'pyarrow', 'dagster') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_every_link_leads_to_a_page(url: str) -> None:
    for path, _ in LINKS.values():
        assert get(f"{url}/{path}").status_code == 200
