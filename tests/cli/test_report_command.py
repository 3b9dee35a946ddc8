"""`aquarat report`: the page of a report, found from a report or a checkpoint, opened or served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.cli import main
from aquarat_core.evaluation.looks import CONTENT
from tests.serving import free_port

PAGE = "<!doctype html><title>t</title><p>The page.</p>"


@pytest.fixture
def report(store_uri: str, tmp_path: Path) -> Artifact:
    """An eval report about a checkpoint on a data set, with a page; there is another checkpoint without a report."""
    store, code = ArtifactStore.open(store_uri), CodeVersion(version="1" * 64)
    files, records = tmp_path / "files", tmp_path / "records"
    for folder in (files, records):
        folder.mkdir()
    for name in CONTENT:
        (files / name).write_text("{}")
    (records / "report.html").write_text(PAGE)

    def publish(asset: str, kind: str, parents: list[Artifact], page: Path | None = None) -> Artifact:
        return store.publish(
            asset=asset, kind=kind, directory=files, records=page, config={}, profile="demo", run_id="r",
            parents=[p.as_parent() for p in parents], metrics={}, seeds={}, code=code,
        )  # fmt: skip

    data = publish("aqua_dataset", "dataset", [])
    checkpoint = publish("rl_checkpoint", "checkpoint", [])
    (files / "config.json").write_text('{"other": true}')
    publish("sft_checkpoint", "checkpoint", [])
    return publish("rl_eval_report", "report", [checkpoint, data], records)


@pytest.mark.parametrize("what", ["rl_eval_report", "rl_checkpoint"])
def test_the_path_of_the_page_is_printed(report: Artifact, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", what]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.read_text() == PAGE
    assert main(["report", what, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"asset": "rl_eval_report", "manifest_sha256": report.sha256, "path": str(path)}


def test_what_has_no_page_and_no_report_says_so(report: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "sft_checkpoint"]) == 2
    assert "is a checkpoint without a page, and no report is about it" in capsys.readouterr().err
    assert main(["report", "aqua_dataset"]) == 2
    assert "is a dataset without a page; only checkpoints have reports about them" in capsys.readouterr().err


def test_without_a_display_nothing_is_opened(
    report: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert main(["report", "rl_eval_report", "--open"]) == 2
    assert "there is no display here" in capsys.readouterr().err


def test_a_browser_gets_the_page(report: Artifact, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "aquarat_core.cli", "report", "rl_eval_report", "--open"]
    done = subprocess.run(command, env={**os.environ, "BROWSER": str(browser)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert seen.read_text().strip() == Path(done.stdout.strip()).as_uri()


def test_the_page_is_served_to_this_machine_alone_and_can_run_nothing(report: Artifact) -> None:
    port = free_port()
    command = [sys.executable, "-m", "aquarat_core.cli", "report", "rl_checkpoint", "--serve", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    address = process.stdout.readline().strip()
    assert address == f"http://127.0.0.1:{port}/reports/{report.sha256}"
    page = requests.get(address, timeout=30)
    assert page.text == PAGE
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox") and "default-src 'none'" in policy and "script" not in policy
    assert requests.get(address, headers={"Host": f"evil.example:{port}"}, timeout=30).status_code == 403
    assert requests.get(f"http://127.0.0.1:{port}/other", timeout=30).status_code == 404
    taken = subprocess.run(command, capture_output=True, text=True)
    assert taken.returncode == 2 and f"port {port} cannot be used" in taken.stderr
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in err and f"ssh -L {port}:127.0.0.1:{port} " in err
