"""What every test may use: an empty store and cache, a Dagster instance of its own, and the shared real data if any.

The whole suite runs in several processes, a file's tests in one of them: much of it waits for processes to start and
for clocks. So tests use free ports, folders of their own and names that no other run has.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.patience import limit

if TYPE_CHECKING:
    import dagster

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = pytest.StashKey[Counter[str]]()
"""How many tests of each file `--fast` left out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out what is marked slow, and say what that is")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes for `-n auto`: one more than there are processors for the whole suite, this one alone for a part."""
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    return min(8, len(os.sched_getaffinity(0)) + 1) if whole else 0


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process is left alone with one in the end.

    What calls a test hung follows the machine: twice its limit on a quiet one, more on one that is slow or busy.
    """
    if config.getoption("fast"):
        _leave_out_slow(config, items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    usual = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout(limit(marker.args[0] if marker else usual)), append=False)


def _leave_out_slow(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    config.stash[LEFT_OUT] = Counter(item.nodeid.partition("::")[0] for item in slow)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With several processes only those that run tests know what was left out; each tells the one that reports."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All processes collect the same tests, so that the last answer is as good as any."""
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash[LEFT_OUT]
    if left_out:
        terminalreporter.section("left out by --fast")
        for file, tests in sorted(left_out.items()):
            terminalreporter.line(f"{tests:5}  {file}")
        terminalreporter.line(
            f"{left_out.total():5}  tests marked slow, in {len(left_out)} files; run them with ./run test -m slow"
        )


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real rows beside the checkout; tests that ask for it are skipped where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("there is no ../shared here")
    return folder


@pytest.fixture
def store_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of an empty store that `AQUARAT_STORE` names, with a cache of its own."""
    uri = f"file://{tmp_path}/store"
    monkeypatch.setenv("AQUARAT_STORE", uri)
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    return uri


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dagster.DagsterInstance]:
    """A lasting Dagster instance in a directory of its own, which `DAGSTER_HOME` names meanwhile."""
    import dagster as dg

    home = tmp_path / "dagster_home"
    home.mkdir()
    with dg.instance_for_test(temp_dir=str(home), overrides={"python_logs": {"python_log_level": "INFO"}}) as made:
        yield made
