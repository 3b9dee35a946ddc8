"""The lock, the metadata, and the part of `./run` that can be tried without setting anything up."""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from aquarat_core.cli import entry_points
from aquarat_core.config import WandbConfig
from aquarat_core.data.hub import HubDataset
from aquarat_core.errors import UserError
from aquarat_core.tracking import metrics

LOCKS = (
    "requirements.lock",
    "requirements-host.lock",
    "requirements-host-cuda12.lock",
    "requirements-harness.lock",
    "requirements-postgres.lock",
    "requirements-ray.lock",
    "requirements-uv.lock",
)
NEEDED = "bash cat cut dirname env find flock head mkdir mv readlink realpath rm sed sha256sum sort xargs"


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_pins_every_package_by_hash_and_names_no_address(root: Path, name: str) -> None:
    text = (root / name).read_text()
    assert "://" not in text
    assert not re.search(r"^--", text, re.M), "an option such as an index"
    packages = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", text, re.M | re.S)
    assert packages
    for package in packages:
        first = package.splitlines()[0]
        assert re.match(r"[a-z0-9._-]+==\S+", first), first
        assert "--hash=sha256:" in package, first


def test_the_lock_holds_every_direct_dependency(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *chain.from_iterable(project["dependency-groups"].values())]
    wanted += chain.from_iterable(extras[name] for name in extras.keys() - {"eval", "postgres", "ray"})
    names = {re.match(r"[A-Za-z0-9._-]+", w)[0].lower().replace("_", "-") for w in wanted} - {"aquarat", "rustbpe-py"}
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (root / "requirements.lock").read_text(), re.M))
    assert names <= locked, names - locked
    assert "torch>=2.9" in wanted and not any("dagster>" in w for w in project["project"]["dependencies"])


def test_the_tokenizers_wheel_has_the_version_that_the_package_needs(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wheel = tomllib.loads((root / "rust/pyproject.toml").read_text())["project"]
    crate = tomllib.loads((root / "rust/Cargo.toml").read_text())["package"]
    assert wheel["version"] == crate["version"] == project["version"]
    assert f"rustbpe_py=={wheel['version']}" in project["dependencies"]


@pytest.mark.parametrize(
    ("group", "package"), [("harness", "lm-eval"), ("postgres", "dagster-postgres"), ("ray", "ray")]
)
def test_an_optional_group_is_locked_apart_and_replaces_nothing(root: Path, group: str, package: str) -> None:
    """What `./run setup --harness` installs besides is found last, so a second version of a package would be unused."""

    def locked(name: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9._-]+)==", (root / name).read_text(), re.M))

    assert package in locked(f"requirements-{group}.lock")
    assert not locked(f"requirements-{group}.lock") & locked("requirements.lock")


def sourced(root: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `script` with the functions of `run` and its ROOT at hand."""
    whole = {"PATH": os.environ["PATH"], "HOME": str(root), **environment}
    command = ["bash", "-c", f"source '{root / 'run'}'\n{script}"]
    return subprocess.run(command, capture_output=True, text=True, env=whole, cwd=root)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A checkout with nothing set up, as far as `run` reads it."""
    for name in ("run", "pyproject.toml", *LOCKS, "rust/Cargo.toml", "dagster_home/dagster.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("before", ["", "--ray "])
def test_setup_names_the_optional_groups_that_there_are(copy: Path, before: str) -> None:
    done = sourced(copy, f"set_up_with {before}--harnes")
    assert done.returncode == 1
    assert done.stderr == "run: setup takes --harness --postgres --ray or nothing, not '--harnes'.\n"
    assert not (copy / ".venv").exists()


def test_dotenv_is_read_not_executed_and_the_environment_wins(copy: Path) -> None:
    (copy / ".env").write_text(
        '# comment\n\nAQUARAT_STORE="gs://bucket/a b"\nEVIL=$(touch evil)`touch evil`\nMINE=theirs\nEMPTY=\nLAST=1'
    )
    script = 'load_dotenv; printf "%s|" "$AQUARAT_STORE" "$EVIL" "$MINE" "$EMPTY" "$LAST"; env | grep -c ^LAST='
    out = sourced(copy, script, MINE="mine")
    assert out.stdout == "gs://bucket/a b|$(touch evil)`touch evil`|mine||1|1\n", out.stderr
    assert not (copy / "evil").exists()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("V=hf_x # note", "hf_x"),
        ("V=hf_x\t#note", "hf_x"),
        ("V=file:///a # the store", "file:///a"),
        ("V= # no value", ""),
        ("V=a#b", "a#b"),
        ("V=a b  ", "a b"),
        ('V="a b" # c', "a b"),
        ("V='a # b'", "a # b"),
        ("V=it's", "it's"),
    ],
)
def test_dotenv_comments_do_not_become_part_of_a_value(copy: Path, line: str, value: str) -> None:
    (copy / ".env").write_text(line + "\n")
    out = sourced(copy, 'load_dotenv; printf "[%s]" "$V"')
    assert out.stdout == f"[{value}]", out.stderr


def test_dotenv_with_an_open_quote_is_refused(copy: Path) -> None:
    (copy / ".env").write_text("V='a b\n")
    out = sourced(copy, "load_dotenv")
    assert out.stderr == "run: .env line 1: the value of V begins with a quote and does not end with it.\n"
    assert out.returncode == 1


@pytest.mark.parametrize(
    ("mode", "text", "refused"),
    [
        (0o600, "HF_TOKEN=hf_x\n", False),
        (0o644, "HF_TOKEN=hf_x\n", True),
        (0o640, "WANDB_API_KEY=1\n", True),
        (0o644, "HF_TOKEN= # none\nAQUARAT_PROFILE=tiny\n", False),
        (0o666, "AQUARAT_PROFILE=tiny\n", True),
    ],
)
def test_secrets_in_a_dotenv_that_others_can_read_are_refused(copy: Path, mode: int, text: str, refused: bool) -> None:
    (copy / ".env").write_text(text)
    (copy / ".env").chmod(mode)
    out = sourced(copy, "load_dotenv; echo read")
    assert ("chmod 600" in out.stderr, out.stdout) == (refused, "" if refused else "read\n")


def test_dotenv_with_another_line_is_refused(copy: Path) -> None:
    (copy / ".env").write_text("A=1\nexport B=2\n")
    out = sourced(copy, "load_dotenv")
    assert (out.returncode, out.stderr) == (1, "run: .env line 2 is not KEY=VALUE\n")


def test_the_environment_of_every_command(copy: Path) -> None:
    script = (
        'export_environment; printf "%s|" "$DAGSTER_HOME" "$DAGSTER_MODULE_NAME" "${PYTHONDONTWRITEBYTECODE-unset}"'
    )
    out = sourced(copy, script, PYTHONDONTWRITEBYTECODE="1")
    assert out.stdout == f"{copy}/dagster_home|aquarat|unset|", out.stderr
    out = sourced(copy, script, DAGSTER_HOME="else/where")
    assert out.stdout.startswith(f"{copy}/else/where|")
    assert (copy / "else/where/dagster.yaml").read_text() == (copy / "dagster_home/dagster.yaml").read_text()


def test_a_second_dev_and_a_taken_port_are_refused_before_they_disturb_the_first(copy: Path) -> None:
    home = {"DAGSTER_HOME": str(copy / "home")}
    (copy / "home").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        out = sourced(copy, f"dev --port {port}", **home)
        assert out.stderr == (
            f"run: port {port} is taken by another program: "
            "./run dev --port N, or AQUARAT_PORT in .env, takes another one.\n"
        )
        with (copy / "home/.dev.lock").open("w") as first:
            fcntl.flock(first, fcntl.LOCK_EX)
            out = sourced(copy, f"dev --port {port}", **home)
        assert out.stderr == f"run: a ./run dev with this DAGSTER_HOME ({copy}/home) is running already.\n"
    assert out.returncode == 1


def test_commands_that_start_at_once_in_a_new_home_do_not_disturb_each_other(root: Path, tmp_path: Path) -> None:
    """Each makes Dagster's database if there is none; three at once make one, and each then runs its asset."""
    (tmp_path / "toys.py").write_text("import dagster as dg\n@dg.asset\ndef toy(): ...\ndefs = dg.Definitions([toy])\n")
    script = (
        f"source '{root / 'run'}'; export_environment; make_database; unset DAGSTER_MODULE_NAME; "
        f"dagster asset materialize --select toy -f '{tmp_path / 'toys.py'}'"
    )
    home = tmp_path / "home"
    env = {**os.environ, "DAGSTER_HOME": str(home)}
    several = [
        subprocess.Popen(
            ["bash", "-c", script], env=env, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(3)
    ]
    for process in several:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert [run.status.value for run in instance.get_runs()] == ["SUCCESS"] * 3


@pytest.mark.parametrize("port", ["abc", "0", "65536", "3000x", ""])
def test_a_port_that_is_no_port_is_named_at_once(copy: Path, port: str) -> None:
    out = sourced(copy, f"dev --port {port}", DAGSTER_HOME=str(copy))
    assert (out.returncode, out.stderr) == (1, f"run: --port needs a number from 1 to 65535, not '{port}'.\n")


def test_a_wheel_is_built_again_when_a_source_changes_and_only_then(copy: Path) -> None:
    (copy / "rust/src").mkdir()
    (copy / "rust/src/lib.rs").write_text("// one")
    (copy / "rust/target").mkdir()
    first = sourced(copy, "wheel_inputs").stdout
    (copy / "rust/target/debris.rs").write_text("// built")
    assert sourced(copy, "wheel_inputs").stdout == first != ""
    (copy / "rust/src/lib.rs").write_text("// two")
    assert sourced(copy, "wheel_inputs").stdout != first


def test_the_project_is_installed_again_when_its_metadata_change_and_only_then(copy: Path) -> None:
    """Its entry points are read from what is installed: an environment from before they were there must follow."""
    script = 'stamped project "$(project_inputs)" && echo installed || echo old'
    assert sourced(copy, script).stdout == "old\n"
    assert sourced(copy, f'stamp project "$(project_inputs)"; {script}').stdout == "installed\n"
    (copy / "rust/src").mkdir()
    assert sourced(copy, script).stdout == "installed\n"
    with (copy / "pyproject.toml").open("a") as project:
        project.write('[project.entry-points."aquarat.commands"]\n')
    assert sourced(copy, script).stdout == "old\n"


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ([], "a C compiler is needed. Install one"),
        (["cc"], "cargo is needed to build the tokenizer. Install Rust with rustup"),
    ],
)
def test_a_missing_tool_is_named_before_anything_is_installed(copy: Path, present: list[str], expected: str) -> None:
    tools = copy / "tools"
    tools.mkdir()
    for name in [*NEEDED.split(), *present]:
        (tools / name).symlink_to(shutil.which(name))
    out = subprocess.run([copy / "run", "setup"], capture_output=True, text=True, env={"PATH": str(tools)})
    assert out.returncode == 1
    assert expected in out.stderr
    assert not (copy / ".venv").exists()


def test_an_old_cargo_is_named(copy: Path) -> None:
    tools = copy / "tools"
    tools.mkdir()
    (tools / "cargo").write_text("#!/bin/sh\necho cargo 1.63.0\n")
    (tools / "cargo").chmod(0o755)
    out = sourced(copy, "check_toolchain", PATH=f"{tools}:{os.environ['PATH']}")
    assert out.returncode == 1
    assert "cargo 1.63.0 is too old: 1.89 or newer is needed" in out.stderr


def test_an_unknown_command_shows_the_usage(root: Path) -> None:
    out = subprocess.run([root / "run", "dmeo"], capture_output=True, text=True)
    assert out.returncode == 1
    assert "usage: ./run COMMAND" in out.stderr and "unknown command 'dmeo'" in out.stderr


def test_the_demos_help_needs_no_set_up(copy: Path) -> None:
    (copy / "aquarat_pipeline").mkdir()
    for name in ("__init__.py", "demo.py"):
        shutil.copy(Path(__file__).parents[2] / "aquarat_pipeline" / name, copy / "aquarat_pipeline")
    out = subprocess.run([copy / "run", "demo", "--profile", "tiny", "--help"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "usage: ./run demo" in out.stdout and "--profile NAME" in out.stdout
    assert not (copy / ".venv").exists()


def test_what_takes_long_keeps_its_exit_code_and_leaves_nothing_running(copy: Path) -> None:
    out = sourced(copy, 'patiently "failing" bash -c "exit 7" || echo "code $?"; jobs -r; patiently "working" true')
    assert (out.returncode, out.stdout) == (0, "code 7\n"), out.stderr


# --- packages of extras that are not installed ------------------------------------------------------------------------


def test_a_data_set_of_the_hub_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    hub = HubDataset("owner/name", "0" * 40, lambda text: None)
    with pytest.raises(UserError, match=r"owner/name needs datasets, which is not .*: pip install 'aquarat\[train\]'"):
        hub._find_names("default", "train")


def test_a_stage_without_wandb_says_so_and_writes_its_own_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    said: list[str] = []
    context = SimpleNamespace(rank=0, wandb=None, extras_dir=tmp_path, log=said.append)
    with metrics.metric_log(context, WandbConfig()) as log:
        log.row(1, loss=2.0)
    assert said == ["W&B is not installed (pip install 'aquarat[train]'): the stage continues with metrics.jsonl alone"]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_commands_that_cannot_be_loaded_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point(SimpleNamespace):
        def load(self) -> None:
            raise ImportError("Dagster is not installed")

    points = [Point(name=name, dist=SimpleNamespace(name="aquarat")) for name in ("launch", "adopt")]
    monkeypatch.setattr(entry_points.metadata, "entry_points", lambda group: points)
    said: list[str] = []
    assert list(entry_points.load(entry_points.COMMANDS, said.append)) == []
    assert said == ["adopt, launch of aquarat cannot be used: Dagster is not installed"]
