"""Takes the pictures of `docs/tour.md`: `python -m docs.tour_pictures` in the checkout and `./run shell`.

It starts the Dagster UI and `aquarat serve` on the environment's `DAGSTER_HOME` and `AQUARAT_STORE`, which must hold a
finished chain, walks through their pages with Debian's Chromium, and writes small pictures to `docs/tour/`. What
`aquarat status` prints goes into the page between `<!-- shown: aquarat status -->` and `<!-- end -->`. No run is
launched, and the model is asked one question.

The pictures show the store's address: let it be one that anybody may see.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.errors import UserError
from aquarat_core.settings import store_uri
from tests.serving import answering, free_port

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "tour"
STATUS = re.compile(r"(<!-- shown: aquarat status -->\n).*?(<!-- end -->)", re.DOTALL)
SIZE = {"width": 1280, "height": 800}
WIDTH = 900
"""Of a picture, in pixels."""
QUALITY = 60
MOST_BYTES = 60_000
PATIENCE = 120_000
"""Milliseconds that a page may take to show what it should."""


class Servers(NamedTuple):
    """Addresses of the two servers."""

    ui: str
    pages: str


class Picture(NamedTuple):
    """A picture's name, and how its page is reached."""

    name: str
    open: Callable[[Page, Servers], None]


def main() -> int:
    """Writes all pictures; returns 2 where there is no finished chain."""
    try:
        store = ArtifactStore.open(store_uri())
        run = store.resolve("rl_eval_report").manifest.run_id
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    FOLDER.mkdir(exist_ok=True)
    show_status(ROOT / "docs" / "tour.md")
    with servers() as found, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        expect.set_options(timeout=PATIENCE)
        for picture in pictures(run):
            context = browser.new_context(viewport=SIZE, locale="en-GB", timezone_id="UTC")
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            picture.open(page, found)
            page.wait_for_load_state("networkidle")
            written = write(FOLDER / f"{picture.name}.webp", page.screenshot(animations="disabled"))
            print(f"{picture.name}: {written:,} bytes")
            context.close()
    return 0


@contextmanager
def servers() -> Iterator[Servers]:
    """The Dagster UI and the server of the chain's last checkpoints, until the block ends."""
    ui, pages = str(free_port()), str(free_port())
    found = Servers(f"http://127.0.0.1:{ui}", f"http://127.0.0.1:{pages}")
    dev = [ROOT / "run", "dev", "--port", ui]
    serve = [sys.executable, "-m", "aquarat_core.cli", "serve", "rl_checkpoint", "sft_checkpoint", "--port", pages]
    with (
        tempfile.TemporaryDirectory() as logs,
        answering(f"{found.ui}/server_info", dev, Path(logs, "ui"), ROOT, os.environ),
        answering(f"{found.pages}/health", serve, Path(logs, "pages"), ROOT, os.environ),
    ):
        yield found


def write(path: Path, screenshot: bytes) -> int:
    """The screenshot as a small picture; its bytes. Raises `ValueError` where it is not small."""
    image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    height = round(image.height * WIDTH / image.width)
    image.resize((WIDTH, height), Image.Resampling.LANCZOS).save(path, quality=QUALITY, method=6)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, more than {MOST_BYTES:,}: show less on it")
    return size


def show_status(page: Path) -> None:
    """Puts what `aquarat status` prints into the page."""
    environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "aquarat_core.cli", "status"]
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    shown = "\n".join(f"    {line}".rstrip() for line in ["aquarat status", "", *printed.splitlines()])
    text, found = STATUS.subn(lambda match: f"{match[1]}\n{shown}\n\n{match[2]}", page.read_text())
    assert found == 1, f"{page} has {found} places for what aquarat status prints"
    page.write_text(text)


# --- what is shown --------------------------------------------------------------------------------------------------


def pictures(run: str) -> list[Picture]:
    """All pictures in the order of the tour; `run` is the one that made the report on RL."""
    return [
        Picture("graph", _graph),
        Picture("asset", _asset),
        Picture("run", lambda page, at: _run(page, at, run)),
        Picture("report", _report),
        Picture("curves", _curves),
        Picture("chat", _chat),
        Picture("explorer", _explorer),
    ]


def _graph(page: Page, at: Servers) -> None:
    page.goto(f"{at.ui}/asset-groups")
    expect(page.get_by_text("tokenizer", exact=True).last).to_be_visible()
    page.keyboard.press("Alt+e")  # unfolds all groups
    expect(page.get_by_text("rl_checkpoint", exact=True).last).to_be_visible()


def _asset(page: Page, at: Servers) -> None:
    page.set_viewport_size({"width": SIZE["width"], "height": 1400})  # for the metadata below the description
    page.goto(f"{at.ui}/assets/rl_checkpoint")
    expect(page.get_by_role("button", name="Show materialization events")).to_be_visible()
    expect(page.get_by_role("table").get_by_role("link", name="sft_checkpoint").first).to_be_visible()


def _run(page: Page, at: Servers, run: str) -> None:
    page.goto(f"{at.ui}/runs/{run}")
    expect(page.get_by_text(re.compile(r"^Succeeded \([1-9]"))).to_be_visible()
    expect(page.get_by_text("Loading run logs")).to_be_hidden()


def _report(page: Page, at: Servers) -> None:
    page.goto(f"{at.pages}/reports/rl_eval_report")
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def _curves(page: Page, at: Servers) -> None:
    page.goto(f"{at.pages}/runs?artifact=rl_checkpoint")
    expect(page.get_by_role("figure").first).to_be_visible()


def _chat(page: Page, at: Servers) -> None:
    page.goto(at.pages)
    page.get_by_role("button", name="A question that it was tested on").click()
    expect(page.get_by_role("textbox", name="Your message")).not_to_have_value("")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("log").get_by_text(re.compile(r"\d+ tokens"))).to_be_visible()


def _explorer(page: Page, at: Servers) -> None:
    page.goto(f"{at.pages}/explore?report=rl_eval_report")
    page.get_by_role("group", name="Filter").get_by_role("button", name="RL fixed it").click()
    page.get_by_role("region", name="Questions").get_by_role("link").first.click()
    page.get_by_role("button", name="Look inside").click()
    expect(page.get_by_role("listbox", name=re.compile("^Tokens"))).to_be_visible()


if __name__ == "__main__":
    sys.exit(main())
