"""What people do on the pages of a running `aquarat serve`, on a desktop and on a phone, by mouse and by keys."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect

from aquarat_core.model.checkpoint import save_checkpoint
from tests.evaluation.conftest import Chain
from tests.factories import random_model, tokenizer
from tests.patience import limit, wait_until
from tests.serve.web_store import HOSTILE, WebStore
from tests.serving import answering, free_port

pytestmark = pytest.mark.slow

QUESTION = "/explore?report=rl_eval_report&evaluation=aqua%2Fgreedy&question=q03"
PAGES = ("/", "/explore", QUESTION, "/runs", "/runs?artifact=rl_checkpoint", "/reports", "/reports/base_eval_report")
MAIN = re.compile("^(Chat|Explorer|Runs|Reports)$")


@pytest.fixture(scope="module")
def url(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of `rl_checkpoint`, and of `endless`, which talks on until it is stopped."""
    folder = tmp_path_factory.mktemp("served")
    environment = {**os.environ, "AQUARAT_STORE": f"file://{folder}/store", "AQUARAT_CACHE": str(folder / "cache")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AQUARAT_CACHE", environment["AQUARAT_CACHE"])
        store = WebStore(environment["AQUARAT_STORE"], folder / "scratch").store
        chain = Chain(store, folder / "more", n=40)
        chain.train("base")
        chain.evaluate("base", chain.answers(chain.asked, 0.5))
    port = str(free_port())
    address = f"http://127.0.0.1:{port}"
    options = ["--port", port, "--max-new-tokens", "20000"]
    command = [sys.executable, "-m", "aquarat_core.cli", "serve", "rl_checkpoint", endless(folder), *options]
    with answering(f"{address}/health", command, folder / "log", root, environment):
        yield address


@pytest.fixture(autouse=True)
def no_script_fails(script_errors: list[str]) -> Iterator[None]:
    yield
    assert script_errors == []


def endless(folder: Path) -> Path:
    """A model that never ends its turn, with room for more than anybody waits for."""
    made = folder / "endless"
    made.mkdir()
    tokens = tokenizer()
    tokens.save(folder / "tokenizer.json")
    model = random_model(tokens.vocab_size, sequence_len=20_000)
    ends = [tokens.special(name) for name in ("<|assistant_end|>", "<|bos|>")]
    model.head.weight.data[ends] = 0.0
    save_checkpoint(made, model, folder / "tokenizer.json")
    return made


def ready(page: Page, address: str) -> None:
    """Opens a page and waits until its script has filled it."""
    page.goto(address)
    if "/reports/" not in address:
        expect(page.get_by_role("heading", level=1, name=MAIN)).to_have_count(1)
    page.wait_for_load_state("networkidle")


def talk(page: Page) -> Locator:
    return page.get_by_role("log", name="Conversation")


def running(url: str) -> float:
    """The answers that the server generates at the moment."""
    text = requests.get(f"{url}/metrics", timeout=limit(10)).text
    return sum(float(number) for number in re.findall(r"^aquarat_running\{.*\} (\S+)$", text, re.MULTILINE))


# --- chat -----------------------------------------------------------------------------------------------------------


def test_a_phone_chats(phone: Page, url: str) -> None:
    ready(phone, url)
    for number in (1, 2):
        phone.get_by_role("textbox", name="Your message").fill(f"What is {number} plus 4?")
        phone.get_by_role("button", name="Send").tap()
        expect(talk(phone).get_by_text(f"What is {number} plus 4?")).to_be_visible()
        expect(talk(phone).get_by_text(re.compile(r"\d+ tokens"))).to_have_count(number)
    assert sideways(phone) == 0
    phone.get_by_role("button", name="New chat").tap()
    expect(talk(phone).get_by_text("What is 1 plus 4?")).to_have_count(0)


def test_an_answer_is_stopped(page: Page, url: str) -> None:
    ready(page, url)
    page.get_by_role("combobox", name="Model").select_option("endless")
    page.get_by_role("textbox", name="Your message").fill("Go on.")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    wait_until(lambda: running(url) == 1, 30, "the server generates")
    page.get_by_role("button", name="Stop").click()
    expect(talk(page).get_by_text("stopped")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    wait_until(lambda: running(url) == 0, 30, "the server has stopped too")
    page.get_by_role("combobox", name="Model").select_option("rl_checkpoint")
    page.get_by_role("textbox", name="Your message").fill("And now?")
    page.get_by_role("button", name="Send").click()
    expect(talk(page).get_by_text("And now?")).to_be_visible()
    expect(talk(page).get_by_text(re.compile(r"\d+ tokens")).last).to_be_visible()


def test_keys_are_enough_to_chat(page: Page, url: str) -> None:
    ready(page, url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    reach(page, page.get_by_role("combobox", name="Model"))
    page.keyboard.type("endless")
    reach(page, page.get_by_role("textbox", name="Your message"))
    page.keyboard.type("Go on.")
    page.keyboard.press("Enter")
    expect(talk(page).get_by_text("Go on.")).to_be_visible()
    wait_until(lambda: running(url) == 1, 30, "the server generates")
    page.keyboard.press("Escape")
    expect(talk(page).get_by_text("stopped")).to_be_visible()


def reach(page: Page, there: Locator) -> None:
    """Goes on with Tab until the focus is there."""
    for _ in range(40):
        if there.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead to {there}")


# --- explorer and reports -------------------------------------------------------------------------------------------


def test_a_deep_link_leads_to_a_question_and_into_the_checkpoint(page: Page, url: str) -> None:
    ready(page, url + QUESTION)
    shown = page.get_by_role("article")
    expect(shown.get_by_role("heading", name="Question q03")).to_be_visible()
    for stage, verdict in (("SFT", "✗ wrong"), ("RL", "✓ right")):
        expect(shown.get_by_role("link", name=re.compile(f"^{stage} {verdict}"))).to_be_visible()
    shown.get_by_role("button", name="Look inside").click()
    tokens = shown.get_by_role("listbox", name=re.compile("^Tokens"))
    expect(tokens.get_by_role("option").first).to_be_visible()
    address = page.url
    page.reload()
    expect(shown.get_by_role("heading", name="Question q03")).to_be_visible()
    assert page.url == address


def test_a_filter_and_back(page: Page, url: str) -> None:
    ready(page, f"{url}/explore?report=rl_eval_report&evaluation=aqua%2Fgreedy")
    page.get_by_role("group", name="Filter").get_by_role("button", name="RL fixed it").click()
    found = page.get_by_role("region", name="Questions").get_by_role("listitem")
    expect(found).to_have_count(15)  # every third of 60 but for every twelfth
    found.nth(0).get_by_role("link").click()
    expect(page.get_by_role("heading", name="Question q03")).to_be_visible()
    found.nth(1).get_by_role("link").click()
    expect(page.get_by_role("heading", name="Question q06")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Question q03")).to_be_visible()


def test_stored_text_stays_text(page: Page, url: str) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a stored text opened a dialog: {dialog.message}"))
    ready(page, f"{url}/explore?report=rl_eval_report&evaluation=aqua%2Fgreedy&question=q05")
    expect(page.get_by_role("article").get_by_text(HOSTILE[:25]).first).to_be_visible()


def test_a_report_leads_to_the_explorer(page: Page, url: str) -> None:
    ready(page, f"{url}/reports")
    page.get_by_role("link", name="rl_eval_report", exact=True).click()
    expect(page).to_have_url(re.compile("/reports/"))
    page.get_by_role("link", name="In the explorer").first.click()
    expect(page.get_by_role("article").get_by_role("heading", name=re.compile(r"^Question q\d\d"))).to_be_visible()


def test_keys_are_enough_to_explore(page: Page, url: str) -> None:
    ready(page, f"{url}/explore?report=rl_eval_report&evaluation=aqua%2Fgreedy")
    reach(page, page.get_by_role("button", name="Wrong form"))
    page.keyboard.press("Enter")
    only = page.get_by_role("region", name="Questions").get_by_role("listitem")
    expect(only).to_have_count(1)
    reach(page, only.get_by_role("link"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Question q02")).to_be_visible()
    reach(page, page.get_by_role("button", name="Look inside"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("listbox", name=re.compile("^Tokens"))).to_be_visible()


# --- all pages ------------------------------------------------------------------------------------------------------


def sideways(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("path", PAGES)
def test_nothing_scrolls_sideways_on_a_phone(phone: Page, url: str, path: str) -> None:
    phone.route("**/reports/*", without_policy)
    ready(phone, url + path)
    for width in (390, 320):
        phone.set_viewport_size({"width": width, "height": 700})
        assert sideways(phone) == 0, f"at {width} pixels"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_that_shuts_people_out(
    browser: Browser, url: str, path: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    with browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme) as context:
        page = context.new_page()
        page.route("**/reports/*", without_policy)
        ready(page, url + path)
        found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [f"{one['id']}: {node['html'][:200]}" for one in serious for node in one["nodes"]] == []


def without_policy(route: Route) -> None:
    """A report's page as it is, but for its policy, under which no script runs, axe neither."""
    response = route.fetch()
    headers = {name: value for name, value in response.headers.items() if name != "content-security-policy"}
    route.fulfill(response=response, headers=headers)
