"""The stored pages of reports: they run nothing, and their questions link to the explorer where it is served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from starlette.applications import Starlette

from aquarat_core.evaluation import document as doc
from aquarat_core.serving import reports
from aquarat_core.serving.catalog import Catalog
from tests.patience import limit
from tests.serve.web_store import HOSTILE, WebStore, get, running


@pytest.fixture(scope="module")
def url(web: WebStore) -> Iterator[str]:
    with running(Starlette(routes=reports.routes(Catalog(web.uri)))) as address:
        yield address


def test_a_report_is_served_so_that_it_can_run_nothing(url: str, web: WebStore) -> None:
    page = get(f"{url}/reports/{web.rl_report.sha256}")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"].split("; ")
    assert policy[0] == "sandbox allow-popups allow-popups-to-escape-sandbox"
    assert "default-src 'none'" in policy and not any(part.startswith("script-src") for part in policy)
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<script" not in page.text and "&lt;script&gt;alert(1)" in page.text


def test_a_name_leads_to_the_page_of_the_latest_report(url: str, web: WebStore) -> None:
    for name in ("rl_eval_report", web.rl_report.sha256[:10]):
        moved = requests.get(f"{url}/reports/{name}", allow_redirects=False, timeout=limit(30))
        assert (moved.status_code, moved.headers["location"]) == (307, f"/reports/{web.rl_report.sha256}")


def test_questions_link_to_the_explorer_where_it_is_served(url: str, web: WebStore) -> None:
    stored = web.rl_report.record("report.html").read_text()
    assert "/explore" not in stored.replace("<!--explore ", "")
    page = get(f"{url}/reports/rl_eval_report").text
    link = (
        f'<a href="/explore?report={web.rl_report.sha256}&amp;evaluation=aqua%2Fgreedy&amp;question=q02&amp;sample=0">'
    )
    assert link in page and "<!--explore" not in page


def test_the_reports_are_listed(url: str, web: WebStore) -> None:
    found = get(f"{url}/reports/data").json()["reports"]
    assert [one["id"] for one in found] == [web.rl_report.sha256, web.sft_report.sha256]
    assert found[0]["checkpoint"] == "rl_checkpoint" and found[0]["accuracy"] == pytest.approx(53 / 60)


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("nothing", 404, "has nothing called &#x27;nothing&#x27;"),
        ("rl_checkpoint", 404, "is a checkpoint and has no page"),
        ("%2e%2e/%2e%2e/etc/passwd", 404, "There is no such report"),
        ("<script>alert(1)", 404, "There is no such report"),
    ],
)
def test_what_is_no_report_is_said_to_people(url: str, name: str, status: int, said: str) -> None:
    page = get(f"{url}/reports/{name}")
    assert page.status_code == status and said in page.text and "<script>alert" not in page.text


def test_a_page_that_is_damaged_or_too_large_is_not_served(
    tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = WebStore(store_uri, tmp_path / "scratch")
    entry = next(entry for entry in web.rl_report.manifest.records if entry.path == "report.html")
    blob = Path(store_uri.removeprefix("file://")) / "blobs" / "sha256" / entry.sha256[:2] / entry.sha256
    blob.chmod(0o644)
    blob.write_bytes(b"<script>other bytes</script>")
    with running(Starlette(routes=reports.routes(Catalog(store_uri)))) as address:
        page = get(f"{address}/reports/rl_eval_report")
        assert page.status_code == 502 and "is damaged" in page.text and "<script>other" not in page.text
        monkeypatch.setattr(reports, "MAX_BYTES", 10)
        assert "over 10" in get(f"{address}/reports/sft_eval_report").text


def test_only_our_own_places_become_links() -> None:
    forged = '<!--explore evaluation=a&amp;question=b" onclick="x&amp;sample=0--><!--explore javascript:alert(1)-->'
    assert doc.linked(forged, "/explore?report=x") == forged
    sample = doc.Sample("t", "wrong", "q", "c", evaluation=f"e--> {HOSTILE}", id=f"--!> {HOSTILE}", sample=3)
    html = doc.Document("t", "s", (sample,)).to_html()
    assert html.count("-->") == 1 and html.count("<!--") == 1
    assert f'id="{sample.anchor}"' in html and f'href="#{sample.anchor}"' in html
    served = doc.linked(html, "/explore?report=x")
    assert served.count('<p class="explore"><a href="/explore?report=x&amp;evaluation=e%2D%2D%3E%20') == 1
    assert "<script>" not in served
