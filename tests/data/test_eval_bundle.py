"""The stage that makes eval_bundle: from a server, a file and a folder, with and without a hash."""

from __future__ import annotations

import hashlib
import http.server
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError

from aquarat_core.config import ConfigError, EvalBundleConfig, load_profile
from aquarat_core.config.core import BUNDLE_URL
from aquarat_core.evaluation.core.bundle import Bundle
from tests.evaluation.bundles import TASKS, write_bundle, zipped
from tests.serving import serving

pytestmark = pytest.mark.slow


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "eval_bundle")


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return zipped(folder, tmp_path / "files" / "eval_bundle.zip")


@pytest.fixture
def url(archive: Path) -> Iterator[str]:
    handler = partial(_Quiet, directory=str(archive.parent))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}/eval_bundle.zip"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_from_a_server(run_stage, url: str, archive: Path, folder: Path) -> None:
    done = run_stage("eval_bundle", {"location": url})
    assert done.error is None, done.message
    assert done.metrics == {
        "tasks": 8,
        "questions": 8 * 24,
        "sha256": sha256(archive),
        "content_sha256": Bundle(folder).sha256,
    }
    names = {str(p.relative_to(done.out)) for p in done.out.rglob("*") if p.is_file()}
    assert names == {"core.yaml", "eval_meta_data.csv", *(f"eval_data/made_up/{label}.jsonl" for label in TASKS)}
    assert Bundle(done.out).sha256 == Bundle(folder).sha256
    assert f"set eval_bundle.location to {url}#sha256={sha256(archive)}" in done.log
    assert re.search(r"8 of the 22 tasks of CORE are in the bundle; absent: .*squad \(not in core\.yaml\)", done.log)
    assert done.progress[-1]["done"] == done.progress[-1]["total"] == 8


def test_with_its_hash_and_with_another(run_stage, url: str, archive: Path) -> None:
    done = run_stage("eval_bundle", {"location": f"{url}#sha256={sha256(archive)}"})
    assert done.error is None and "to refuse other bytes" not in done.log
    refused = run_stage("eval_bundle", {"location": f"{url}#sha256={'0' * 64}"}, out="refused")
    assert refused.error == "DataError" and refused.message.startswith(f"{url}: it has other bytes (SHA-256 ")
    assert list(refused.out.iterdir()) == []


def test_from_a_file_and_from_a_folder(run_stage, archive: Path, folder: Path) -> None:
    of_file = run_stage("eval_bundle", {"location": str(archive)})
    of_folder = run_stage("eval_bundle", {"location": str(folder)}, out="other")
    assert of_file.error is of_folder.error is None
    assert of_file.metrics["content_sha256"] == of_folder.metrics["content_sha256"]


def test_what_is_not_there(run_stage, url: str, tmp_path: Path) -> None:
    done = run_stage("eval_bundle", {"location": url.replace("eval_bundle.zip", "other.zip")})
    assert done.error == "DataError" and "there is no such file. Check the location" in done.message
    gone = run_stage("eval_bundle", {"location": f"{tmp_path}/gone.zip#sha256={'0' * 64}"})
    assert gone.error == "DataError" and "gone.zip cannot be read" in gone.message


def test_a_bad_row_leaves_nothing(run_stage, folder: Path, tmp_path: Path) -> None:
    path = folder / "eval_data/made_up/copa.jsonl"
    path.write_text(path.read_text().replace('"gold": 1', '"gold": 7'))
    archive = zipped(folder, tmp_path / "bad.zip")
    done = run_stage("eval_bundle", {"location": str(archive)})
    assert done.error == "DataError"
    assert re.match(rf"{archive}: eval_data/made_up/copa\.jsonl, line \d+: gold is 7", done.message)
    assert list(done.out.iterdir()) == []


def test_other_baselines_are_said(run_stage, tmp_path: Path) -> None:
    done = run_stage("eval_bundle", {"location": str(write_bundle(tmp_path / "old", commonsense=20))})
    assert "other baselines (commonsense_qa 20) than DataComp-LM v2, which are used" in done.log


def test_locations(archive: Path, folder: Path, tmp_path: Path) -> None:
    assert EvalBundleConfig().location == BUNDLE_URL
    assert EvalBundleConfig(location=str(archive)).location == f"{archive}#sha256={sha256(archive)}"
    pinned = EvalBundleConfig(location=str(folder)).location
    (folder / "core.yaml").write_text((folder / "core.yaml").read_text() + " ")
    assert pinned.startswith(f"{folder}#sha256=") and EvalBundleConfig(location=str(folder)).location != pinned
    (tmp_path / "profile.yaml").write_text("extends: demo\neval_bundle: {location: files/eval_bundle.zip}\n")
    assert load_profile(str(tmp_path / "profile.yaml")).eval_bundle.location.startswith(f"{archive}#sha256=")
    for wrong in ("bundle.zip", "http://example.org/bundle.zip", "https://u:p@x.org/b.zip", "https://x.org/b.tar"):
        with pytest.raises(ValidationError):
            EvalBundleConfig(location=wrong)
    with pytest.raises(ConfigError, match=r"gone\.zip cannot be read"):
        load_profile("demo", {"eval_bundle": {"location": f"{tmp_path}/gone.zip"}})


def test_the_real_bundle(run_stage, shared: Path) -> None:
    done = run_stage("eval_bundle", {"location": str(shared / "hub/files/eval_bundle.zip")})
    assert done.error is None, done.message
    assert done.metrics["tasks"] == 18 and done.metrics["questions"] == 52_400
    assert "other baselines" not in done.log
