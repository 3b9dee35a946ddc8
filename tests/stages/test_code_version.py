"""What makes a stage stale, and what lets its unfinished training be found again."""

from __future__ import annotations

import dataclasses
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from aquarat_core.artifacts.backends import open_backend
from aquarat_core.checkpointing.store import CheckpointManifest, CheckpointStore, checkpoint_store
from aquarat_core.config import Profile, load_profile, override
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.code_version import RECORDING, StageSources, code_version, result_version, sources
from aquarat_core.stages.registry import CHECKPOINTS, STAGES
from aquarat_core.stages.stage import module_of

DEMO = load_profile("demo")
BASE = STAGES["base_checkpoint"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources."""
    root = tmp_path_factory.mktemp("sources")
    for folder in ("aquarat_core", "rust/src"):
        shutil.copytree(REPO_ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture
def edit(pristine: Path) -> Callable[..., StageSources]:
    """The sources with files changed: texts before and after by module, or by path. They are put back at the end."""
    kept: dict[Path, str] = {}

    def edited(**changes: tuple[str, str]) -> StageSources:
        for name, (before, after) in changes.items():
            path = pristine.joinpath(*name.split("__"))
            path = path if path.is_file() else path.with_suffix(".py")
            text = path.read_text()
            kept.setdefault(path, text)
            assert re.search(before, text), f"{path} has no {before}"
            path.write_text(re.sub(before, after, text, count=1))
        return StageSources(pristine, pristine / "memo.json")

    yield edited
    for path, text in kept.items():
        path.write_text(text)


def stale(before: StageSources, after: StageSources) -> set[str]:
    """The stages whose code version differs."""
    return {
        name
        for name, stage in STAGES.items()
        if before.code_version(stage, stage.config(DEMO)) != after.code_version(stage, stage.config(DEMO))
    }


def lost(before: StageSources, after: StageSources) -> set[str]:
    """The training stages whose unfinished state would not be found."""
    trained = {name: STAGES[name] for name in CHECKPOINTS}
    return {
        name
        for name, stage in trained.items()
        if before.result_version(stage, stage.config(DEMO)) != after.result_version(stage, stage.config(DEMO))
    }


def path_of(module: str) -> str:
    return module.replace(".", "__")


def deciding(ending: str, stage: str = "base_checkpoint") -> str:
    """The one module with this ending among those that decide what a stage computes, as `edit` takes it."""
    (found,) = (m for m in sources().deciding_modules(STAGES[stage], None) if m.endswith(f".{ending}"))
    return path_of(found)


TELL = (r"\Z", "\nprint('how it goes')\n")
"""An edit: a line more in the log."""


# --- the six edits --------------------------------------------------------------------------------------------------


def test_a_comment_or_a_docstring_changes_nothing(edit: Callable[..., StageSources]) -> None:
    before = read(edit())
    after = edit(**{deciding("muon"): (r'"""', '"""Otherwise said. '), deciding("loop"): (r"\Z", "# nothing\n\n")})
    assert not stale(before, after) and not lost(before, after)


def test_a_line_of_the_log_makes_stale_and_loses_nothing(edit: Callable[..., StageSources]) -> None:
    before = read(edit())
    after = edit(**{deciding("loop"): TELL})
    assert "base_checkpoint" in stale(before, after) and not lost(before, after)


def test_another_task_touches_only_who_uses_it(edit: Callable[..., StageSources]) -> None:
    before = read(edit())
    after = edit(aquarat_core__tasks__mmlu=(r"\Z", "\nMORE = 1\n"))
    assert stale(before, after) == {"chat_datasets"} and not lost(before, after)


def test_the_optimizer_makes_all_training_stale_and_begins_anew(edit: Callable[..., StageSources]) -> None:
    before = read(edit())
    after = edit(**{deciding("muon"): (r"\Z", "\nMORE = 1\n")})
    assert set(CHECKPOINTS) <= stale(before, after) and lost(before, after) == set(CHECKPOINTS)
    assert not {"aqua_dataset", "tokenizer", "pretrain_tokens", "pipeline_report"} & stale(before, after)


def test_the_loop_makes_its_stages_stale_and_begins_anew(edit: Callable[..., StageSources]) -> None:
    before = read(edit())
    after = edit(**{deciding("loop"): (r"config\.steps, world", "config.steps - 1, world")})
    read(after)
    looping = {"base_checkpoint", "mid_checkpoint", "sft_checkpoint"}
    assert looping <= stale(before, after) and looping <= lost(before, after)
    assert not {"aqua_dataset", "chat_datasets", "tokenizer", "base_eval_report"} & stale(before, after)
    shared = edit(**{deciding("session"): (r"\Z", "\nMORE = 1\n")})
    assert lost(after, shared) == set(CHECKPOINTS), "all training stages step in one loop"


def test_the_config_of_a_stage_is_its_own(edit: Callable[..., StageSources]) -> None:
    """By value, its class by source; that of another stage is neither."""
    other = override(DEMO, {"sft_checkpoint": {"seed": 12345}})
    sft, rl = STAGES["sft_checkpoint"], STAGES["rl_checkpoint"]
    assert code_version(sft, sft.config(DEMO)) != code_version(sft, sft.config(other))
    assert code_version(rl, rl.config(DEMO)) == code_version(rl, rl.config(other))
    assert area(sources(), DEMO).prefix != area(sources(), override(DEMO, {"base_checkpoint": {"seed": 1}})).prefix
    assert area(sources(), DEMO).prefix == area(sources(), other).prefix
    before = read(edit())
    after = edit(aquarat_core__config__evaluation=(r"\Z", "\nMORE = 1\n"))
    assert not {"base_checkpoint", "aqua_dataset"} & stale(before, after) and "base_checkpoint" not in lost(
        before, after
    )
    before = read(after)
    after = edit(aquarat_core__config__training=(r"\Z", "\nMORE = 1\n"))
    assert set(CHECKPOINTS) <= stale(before, after) and lost(before, after) == set(CHECKPOINTS)


def read(made: StageSources) -> StageSources:
    """The sources as they are now, whatever is edited later."""
    for stage in STAGES.values():
        made.code_version(stage, stage.config(DEMO))
        made.result_version(stage, stage.config(DEMO))
    return made


# --- unfinished training --------------------------------------------------------------------------------------------


def area(of: StageSources, profile: Profile, backend: str | None = None) -> CheckpointStore:
    config = BASE.config(profile)
    assert config is not None
    return checkpoint_store(
        open_backend(f"memory://{backend or uuid.uuid4().hex}"), BASE.name, config.model_dump(mode="json"),
        {"tokenizer": "d1"}, of.result_version(BASE, config), of.code_version(BASE, config),
    )  # fmt: skip


def saved(where: CheckpointStore, step: int) -> CheckpointManifest:
    commit = CheckpointManifest(where.folder(step, "aaaa0000"), step, where.identity, None, {})
    where.commit(commit)
    return where.checkpoints()[0]


def test_what_other_code_saved_is_gone_on_with_if_it_decides_nothing_and_both_hashes_are_said(
    edit: Callable[..., StageSources],
) -> None:
    name, before = uuid.uuid4().hex, read(edit())
    assert area(before, DEMO, name).other_code(saved(area(before, DEMO, name), 7)) is None
    here = area(edit(**{deciding("loop"): TELL}), DEMO, name)
    (commit,) = here.checkpoints()
    was, now = (s.code_version(BASE, BASE.config(DEMO))[:12] for s in (before, StageSources(before.root)))
    assert was != now
    assert here.other_code(commit) == (
        f"{commit.folder} was saved by code version {was}, and this is {now}: "
        "what has changed since does not affect the result"
    )
    assert not here.left_by_other_code()


def test_what_code_saved_that_decides_otherwise_is_named_and_not_taken(edit: Callable[..., StageSources]) -> None:
    name, before = uuid.uuid4().hex, read(edit())
    there = area(before, DEMO, name)
    saved(there, 3)
    commit = saved(there, 7)
    here = area(edit(**{deciding("muon"): (r"\Z", "\nMORE = 1\n")}), DEMO, name)
    assert here.checkpoints() == []
    (line,) = here.left_by_other_code()
    assert line.startswith(f"{there.prefix} has the state after step 7 with the same config and inputs")
    assert all(area_.identity["code"][:12] in line for area_ in (there, here))
    assert line.endswith(f"set checkpoint.resume to {there.prefix.rpartition('/')[2]!r}")
    assert "because checkpoint.resume names it" in str(here.other_code(commit))
    other = area(StageSources(before.root), override(DEMO, {"base_checkpoint": {"seed": 1}}), name)
    assert not other.left_by_other_code(), "another config's state is none of its business"


def test_what_was_saved_before_code_versions_were_kept_is_read(edit: Callable[..., StageSources]) -> None:
    """Its identity holds the hash of all sources of then: it is named, and taken where `checkpoint.resume` says so."""
    here = area(read(edit()), DEMO)
    old = dataclasses.replace(here, prefix=f"work/{BASE.name}/{'0' * 16}", identity={**here.identity, "code": "e" * 64})
    old = dataclasses.replace(old, code_version=None)
    saved(old, 5)
    here.backend.write(f"work/{BASE.name}/{'1' * 16}/00000001-a/commit.json", b"not even JSON")
    (line,) = here.left_by_other_code()
    assert f"'{'0' * 16}'" in line and "eeeeeeeeeeee" in line
    (commit,) = here.at("0" * 16).checkpoints()
    here.refuse_another_run(commit)
    assert "eeeeeeeeeeee" in str(here.other_code(commit))


# --- what a stage is made of ----------------------------------------------------------------------------------------


def test_a_change_of_rust_is_one_of_who_tokenizes(edit: Callable[..., StageSources]) -> None:
    before = read(edit())
    after = edit(**{"rust__src__lib.rs": (r"\Z", "// more\n")})
    changed = stale(before, after)
    assert {"tokenizer", "pretrain_tokens", "sft_checkpoint", "rl_eval_report"} <= changed
    assert not {"aqua_dataset", "pretrain_text"} & changed
    assert "sft_checkpoint" in lost(before, after)


def test_the_row_of_a_stage_is_its_own_and_the_table_nobodys(edit: Callable[..., StageSources]) -> None:
    before = read(edit())
    after = edit(aquarat_core__stages__registry=(r"\Z", "\nMORE = 1\n"))
    assert stale(before, after) == set()
    other = dataclasses.replace(BASE, entry="aquarat_core.stages.chat_training:run_mid")
    assert before.code_version(other, None) != before.code_version(BASE, None)
    shown = dataclasses.replace(BASE, kinds=("torch",), group="other", description="x")
    assert before.code_version(shown, None) == before.code_version(BASE, None)


def test_tasks_that_a_stage_names_are_part_of_it(edit: Callable[..., StageSources]) -> None:
    def used(config: object) -> tuple[str, ...]:
        return ("aquarat_core.tasks.mmlu:SOURCE",)

    naming = dataclasses.replace(BASE, tasks=used)
    before = read(edit())
    with_task, without = before.modules(naming, None), before.modules(BASE, None)
    assert "aquarat_core.tasks.mmlu" in with_task - without
    assert "aquarat_core.tasks.mmlu" in before.deciding_modules(naming, None)
    versions = [s.code_version(naming, None) for s in (before, edit(aquarat_core__tasks__mmlu=(r"\Z", "\nMORE = 1\n")))]
    assert versions[0] != versions[1]


def test_recording_is_what_the_docs_say() -> None:
    """Each word of the rule is there for some module that a training stage imports, and hides no other."""
    everything = {m for name in CHECKPOINTS for m in sources().modules(STAGES[name], None)}
    parts = {part for module in everything for part in module.split(".")}
    assert parts >= RECORDING
    left_out = {
        m.removeprefix("aquarat_core.").split(".")[0] for m in everything if not RECORDING.isdisjoint(m.split("."))
    }
    assert left_out <= {"artifacts", "checkpointing", "plain_text", "rl", "runtime", "scratch", "settings", "torchrun",
                        "tracking", "training"}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_made_of_what_it_loads(name: str) -> None:
    stage = STAGES[name]
    modules = sources().modules(stage, stage.config(DEMO))
    assert {module_of(stage.entry), "aquarat_core.stages.run", "aquarat_core.artifacts.store"} <= modules
    assert not {m for m in modules if m.startswith(("aquarat_core.cli", "aquarat_core.maintenance"))}
    assert len(code_version(stage, None)) == len(result_version(stage, None)) == 64
