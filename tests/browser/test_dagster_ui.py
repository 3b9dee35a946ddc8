"""What people do in the Dagster UI, done in a browser to a real `./run dev`; only the stages are toys."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Locator, Page, expect

from aquarat_core.agent import processes
from aquarat_core.stages.registry import STAGES
from tests.serving import answering, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MARK = "AQUARAT_TEST_CLUSTER"
MADE = [name for name in STAGES if name not in ("pipeline_report", "model_release", "eval_bundle")]


@pytest.fixture(scope="module")
def ui(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the UI of a toy chain that was made once; a second base checkpoint is never done."""
    folder = tmp_path_factory.mktemp("ui")
    location = {
        "module_name": "tests.pipeline.toy_definitions",
        "location_name": "toys",
        "working_directory": str(root),
    }
    (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_module": location}]}))
    (folder / "home").mkdir()
    (folder / "home/dagster.yaml").write_bytes((root / "dagster_home/dagster.yaml").read_bytes())
    port = free_port()
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(folder / "home"),
        "AQUARAT_STORE": f"file://{folder}/store",
        "AQUARAT_CACHE": str(folder / "cache"),
        "AQUARAT_PROFILE": "demo",
        "PYTHONPATH": str(root),
        MARK: str(folder),
    }
    environment.pop("DAGSTER_MODULE_NAME", None)
    url, log = f"http://127.0.0.1:{port}", folder / "log"
    try:
        with log.open("wb") as out:
            make = [sys.executable, "-m", "tests.browser.toy_home", *MADE]
            made = subprocess.run(make, cwd=root, env=environment, stdout=out, stderr=out)
        assert made.returncode == 0, log.read_text()
        command = [root / "run", "dev", "--port", str(port), "--workspace", folder / "workspace.yaml"]
        hangs = {"TOY_BASE_CHECKPOINT": json.dumps({"hang": str(folder / "hangs")})}
        with answering(f"{url}/server_info", command, log, root, environment | hangs):
            yield url
    finally:
        for pid in processes.processes_with_env(MARK, str(folder)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# --- what the tests below do ----------------------------------------------------------------------------------------


def open_asset(page: Page, ui: str, asset: str) -> None:
    page.goto(f"{ui}/assets/{asset}")
    expect(page.get_by_role("tab", name="Events")).to_be_visible()


def materialize(page: Page, ui: str, asset: str) -> None:
    """Starts a run from the asset's page and opens the run's."""
    open_asset(page, ui, asset)
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("link", name="View", exact=True).click()
    expect(page).to_have_url(re.compile(r"/runs/[0-9a-f-]{36}"))


def launchpad(page: Page, ui: str, asset: str) -> Locator:
    """The dialog in which a run's config is edited."""
    open_asset(page, ui, asset)
    page.get_by_role("button", name="Materialize").first.locator("xpath=following::button[1]").click()
    page.get_by_role("menuitem", name="Open launchpad").click()
    dialog = page.get_by_role("dialog").filter(has_text="Launchpad")
    expect(dialog.get_by_text("No errors")).to_be_visible()
    return dialog


def write_config(page: Page, dialog: Locator, text: str) -> None:
    dialog.get_by_text(re.compile(r"^\s*ops:")).first.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)


# --- tests ----------------------------------------------------------------------------------------------------------


def test_an_asset_is_made_and_leads_to_its_parent_and_its_report(page: Page, ui: str) -> None:
    materialize(page, ui, "rl_checkpoint")
    expect(page.get_by_text(re.compile(r"^Success"))).to_be_visible()
    expect(page.get_by_text(re.compile(r"^Succeeded \([1-9]"))).to_be_visible()

    open_asset(page, ui, "rl_checkpoint")
    page.get_by_role("table").get_by_role("link", name="sft_checkpoint", exact=True).first.click()
    expect(page).to_have_url(re.compile("/assets/sft_checkpoint"))
    expect(page.get_by_text(STAGES["sft_checkpoint"].description, exact=False).first).to_be_visible()

    page.get_by_role("link", name="sft_eval_report").first.click()
    expect(page).to_have_url(re.compile("/assets/sft_eval_report"))
    with page.expect_popup() as opened:
        page.get_by_role("row", name=re.compile("^report page")).get_by_role("link").first.click()
    expect(opened.value.get_by_role("heading", name="Toy report")).to_be_visible()


def test_a_run_is_watched_and_cancelled(page: Page, ui: str) -> None:
    materialize(page, ui, "base_checkpoint")
    expect(page.get_by_text("Executing (1)")).to_be_visible()
    page.get_by_role("button", name="stderr").click()
    page.get_by_role("combobox", name="Select a step").click()
    page.get_by_role("menuitem").first.click()
    expect(page.get_by_text("line of rank 0").first).to_be_visible()
    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("dialog").get_by_role("button", name=re.compile("Terminate")).click()
    expect(page.get_by_text(re.compile(r"^Canceled")).first).to_be_visible()


def test_a_schedule_is_switched_on_and_off(page: Page, ui: str) -> None:
    page.goto(f"{ui}/automation")
    page.get_by_role("link", name="weekly_reevaluation").click()
    switch = page.get_by_role("checkbox").first
    for on in (True, False):
        expect(switch).to_be_checked(checked=not on)
        switch.locator("xpath=..").click()
        expect(switch).to_be_checked(checked=on)
        page.reload()
        expect(switch).to_be_checked(checked=on)


def test_a_wrong_value_is_refused_where_it_is_written(page: Page, ui: str) -> None:
    dialog = launchpad(page, ui, "rl_checkpoint")
    write_config(page, dialog, "ops: {rl_checkpoint: {config: {steps: many}}}")
    expect(dialog.get_by_text(re.compile(r'rl_checkpoint:config:steps. Value "many"'))).to_be_visible()
    expect(dialog.get_by_role("button", name="Materialize")).to_be_disabled()
    write_config(page, dialog, "ops: {rl_checkpoint: {config: {group_size: 1}}}")
    dialog.get_by_role("button", name="Materialize").click()
    refusal = re.compile("rl_checkpoint:config:group_size of original value 1 failed.*it must be ≥ 2", re.DOTALL)
    expect(page.get_by_role("dialog").get_by_role("heading", name=refusal)).to_be_visible()
