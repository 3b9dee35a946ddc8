"""Debian's Chromium, driven by Playwright, and a page in it for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.patience import limit

NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one file: while it is open, an event loop runs in this thread, and other tests start their own."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium here, so no page is tried in a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path)
        yield opened
        opened.close()


@pytest.fixture
def script_errors() -> list[str]:
    """What went wrong in the scripts of a test's pages."""
    return []


@pytest.fixture
def page(browser: Browser, script_errors: list[str]) -> Iterator[Page]:
    """An empty page of a desktop's size, with no cookies."""
    with _page(browser, script_errors, DESKTOP) as opened:
        yield opened


@pytest.fixture
def phone(browser: Browser, script_errors: list[str]) -> Iterator[Page]:
    """An empty page as narrow as a phone's, touched instead of clicked."""
    with _page(browser, script_errors, PHONE, is_mobile=True, has_touch=True) as opened:
        yield opened


@contextmanager
def _page(browser: Browser, errors: list[str], size: dict[str, int], **more: bool) -> Iterator[Page]:
    patience = 1000 * limit(30)
    expect.set_options(timeout=patience)
    with browser.new_context(viewport=size, locale="en-US", timezone_id="UTC", **more) as context:
        context.set_default_timeout(patience)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
