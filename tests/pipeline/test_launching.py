"""Stages as processes: how they fail, how they are stopped, and what is left of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from aquarat_core.artifacts import ArtifactStore, CodeVersion, Parent
from aquarat_core.config import load_profile
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.registry import CHECKPOINTS, STAGES
from aquarat_pipeline.assets.stage import stage_assets
from aquarat_pipeline.memory import PeakMemory
from tests.patience import limit
from tests.pipeline import toy_definitions
from tests.pipeline.toy_chain import Chain, failure_text

pytestmark = pytest.mark.slow


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(path: Path, seconds: float = 60) -> str:
    deadline = time.monotonic() + limit(seconds)
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.05)
    return path.read_text()


def with_one_retry(chain: Chain, asset: str) -> dg.ExecuteInProcessResult:
    job = dg.define_asset_job("retrying", [asset], op_retry_policy=dg.RetryPolicy(max_retries=1))
    defs = dg.Definitions.merge(chain.defs, dg.Definitions(jobs=[job]))
    return defs.resolve_job_def("retrying").execute_in_process(instance=chain.instance, raise_on_error=False)


def attempts(tmp_path: Path) -> list[str]:
    return sorted(path.parent.name for path in tmp_path.glob("store/jobs/*/aqua_dataset/*/spec.json"))


def test_a_users_mistake_is_the_message_alone_and_not_retried(
    chain: Chain, order: Callable[..., None], tmp_path: Path
) -> None:
    order("aqua_dataset", user_error="row 7 has four options: drop it with on_bad_row")
    text = failure_text(with_one_retry(chain, "aqua_dataset"), "aqua_dataset")
    assert text == "aqua_dataset: row 7 has four options: drop it with on_bad_row"
    assert attempts(tmp_path) == ["1"]


def test_a_bug_names_its_type_and_is_retried_in_a_folder_of_its_own(
    chain: Chain, order: Callable[..., None], tmp_path: Path
) -> None:
    order("aqua_dataset", bug="the loss is nan")
    result = with_one_retry(chain, "aqua_dataset")
    assert failure_text(result, "aqua_dataset") == "aqua_dataset: RuntimeError: the loss is nan"
    failure = next(e for e in result.all_events if e.is_step_failure).step_failure_data.user_failure_data
    assert "line of rank 0" in failure.metadata["last_lines"].value
    assert attempts(tmp_path) == ["1", "2"]


def test_a_stage_that_dies_silently_shows_its_last_lines(chain: Chain, order: Callable[..., None]) -> None:
    order("aqua_dataset", die_rank=0)
    text = failure_text(chain.materialize("aqua_dataset"), "aqua_dataset")
    assert text.startswith("aqua_dataset ended with exit code 7 without giving a reason. Its last lines:\n")
    assert text.endswith("rank is about to die\n")


CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"
"""What makes many terminals put a text of the sender's choice into the clipboard."""


def test_what_a_job_prints_and_logs_cannot_command_the_terminal(
    chain: Chain, order: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    order("aqua_dataset", say=f"printed {CLIPBOARD}", log=f"logged {CLIPBOARD}")
    assert chain.materialize("aqua_dataset").success
    shown = "".join(capfd.readouterr())
    assert "printed \\u001b]52;c;ZXZpbA==\\u0007" in shown
    assert "logged \\u001b]52;c;ZXZpbA==\\u0007" in shown
    assert "\x1b]" not in shown and "\x07" not in shown


def test_what_a_failed_stage_said_stays_a_code_block_in_the_ui(chain: Chain, order: Callable[..., None]) -> None:
    said = f"```\n![beacon](http://evil.example/x.png)\n```` {CLIPBOARD}"
    order("aqua_dataset", say=said, bug=f"bad {CLIPBOARD}")
    result = chain.materialize("aqua_dataset")
    assert failure_text(result, "aqua_dataset") == "aqua_dataset: RuntimeError: bad \\u001b]52;c;ZXZpbA==\\u0007"
    failure = next(e for e in result.all_events if e.is_step_failure).step_failure_data.user_failure_data
    fence, *lines, last = failure.metadata["last_lines"].value.split("\n")
    assert (fence, last) == ("`````text", "`````")
    assert "![beacon](http://evil.example/x.png)" in lines
    assert not any(line.startswith("`````") for line in lines)


@pytest.fixture
def distributed_chain(chain: Chain) -> Chain:
    """The toy chain with its checkpoints as they are, under torchrun on two ranks, and all their inputs there."""
    assert load_profile("demo").base_checkpoint.launch.nproc == 2
    chain.defs = toy_definitions.build(partial(stage_assets, names=CHECKPOINTS))
    assert chain.materialize("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer", "pretrain_tokens").success
    return chain


def test_torchrun_walks_the_distributed_path(distributed_chain: Chain, capfd: pytest.CaptureFixture[str]) -> None:
    result = distributed_chain.materialize("base_checkpoint")
    assert result.success
    shown = "".join(capfd.readouterr())
    assert "line of rank 0" in shown
    assert "line of rank 1" not in shown


def test_a_rank_that_dies_is_named(distributed_chain: Chain, order: Callable[..., None]) -> None:
    order("base_checkpoint", die_rank=1)
    text = failure_text(distributed_chain.materialize("base_checkpoint"), "base_checkpoint")
    assert "without giving a reason" in text
    assert "rank 1: rank is about to die" in text


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_process_of_the_stage(
    tmp_path: Path, root: Path, store_uri: str, order: Callable[..., None], how: signal.Signals
) -> None:
    """The stage and its child, in a session of its own, both ignore SIGTERM."""
    order("aqua_dataset", hang=str(tmp_path / "pids"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((root / "dagster_home/dagster.yaml").read_text())
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-f", str(toy_definitions.__file__)]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    environment.pop("DAGSTER_MODULE_NAME", None)
    with (tmp_path / "log").open("w") as log:
        dagster = subprocess.Popen(
            [*command, "--select", "aqua_dataset"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    pids = [int(pid) for pid in wait_for(tmp_path / "pids").split()]
    assert all(alive(pid) for pid in pids)
    dagster.send_signal(how)
    assert dagster.wait(60) != 0, (tmp_path / "log").read_text()
    assert not any(alive(pid) for pid in pids)


def test_every_stage_of_the_registry_can_be_imported_by_its_runner(root: Path) -> None:
    for stage in STAGES.values():
        module = stage.entry.split(":")[0].replace(".", "/") + ".py"
        assert (root / module).is_file(), stage.entry


@pytest.mark.parametrize("store", ["file:///counted", "file:///other"])
def test_peak_memory_counts_children_and_the_jobs_of_the_store(store: str) -> None:
    holds = "block = bytearray(200_000_000); print('held', flush=True); import time; time.sleep(600)"
    # A job's process is nobody's child: a shell leaves it behind and says which it is.
    leaves = f'"{sys.executable}" -c "{holds}" & echo $!'
    with PeakMemory("file:///counted") as before:
        time.sleep(1.5)
    with PeakMemory("file:///counted") as memory:
        child = subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE)
        environment = {**os.environ, "AQUARAT_JOB": f"{store}/jobs/run/step/1#node0"}
        shell = subprocess.Popen(["sh", "-c", leaves], stdout=subprocess.PIPE, env=environment, text=True)
        job = int(shell.stdout.readline())
        try:
            assert child.stdout.readline() == b"held\n" and shell.stdout.readline() == "held\n"
            time.sleep(1.5)
        finally:
            os.kill(job, signal.SIGKILL)
            child.kill()
            child.wait()
            shell.wait()
    # 200 MB is 191 MiB, and an interpreter takes some of its own.
    blocks = 2 if store == "file:///counted" else 1
    assert 190 * blocks < memory.peak_mb - before.peak_mb < 190 * (blocks + 1)
    # The children share pages of Python's library with this process: resident sizes count them again.
    assert memory.peak_resident_mb > memory.peak_mb


def test_any_rank_may_leave_the_reason(store_uri: str) -> None:
    """Rank 0 is often stopped before it can say what every rank found."""
    missing = Parent(asset="tokenizer", manifest_sha256="0" * 64, data_version="0" * 64, run_id="r")
    spec = StageSpec(
        stage="base_checkpoint",
        store=store_uri,
        profile="demo",
        config=load_profile("demo").base_checkpoint.model_dump(mode="json"),
        inputs={"tokenizer": missing},
        code=CodeVersion(version="v"),
        run_id="run",
        step_key="base_checkpoint",
    )
    job = ArtifactStore.open(store_uri).job("run", "base_checkpoint", 1)
    job.create_json("spec.json", spec.model_dump(mode="json"))
    command = [sys.executable, "-m", "aquarat_core.stages.run", f"{job.uri}/spec.json"]
    out = subprocess.run(command, env={**os.environ, "RANK": "1"}, capture_output=True, text=True)
    assert out.returncode == 2
    error = job.read_json("result.json")["error"]
    assert error["user"] is True
    assert error["message"].startswith("no manifest 000000")
    assert out.stderr.strip() == f"rank 1: {error['message']}"
