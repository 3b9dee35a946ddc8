"""SIGKILL anywhere, the same command again: the same losses and weights, bit for bit.

`./run bench resume` is the long form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aquarat_core.artifacts import Artifact
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.stages.registry import CHECKPOINTS, STAGES
from aquarat_core.tasks.aqua.files import write_questions
from benchmarks.kill.chain import CODE, CONFIGS, IN_FLOAT32, SAVE_EVERY, Chain, chain, points
from tests.factories import guesser, reading_questions, reading_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("kill")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AQUARAT_CACHE", str(folder / "cache"))
        with chain(folder) as running:
            yield running


@pytest.mark.slow
@pytest.mark.parametrize("stage", CHECKPOINTS)
def test_a_run_killed_eight_times_ends_with_the_same_bytes(made: Chain, stage: str) -> None:
    outcome = made.kill(stage, points(8, CHECKPOINTS.index(stage), stage))
    assert outcome.died == 8, "it must have been killed at every point"
    kinds = {"file", "half", "commit", "delete", "step", "update"}
    assert {kind for kind, _ in outcome.points} == kinds | ({"rollout", "eval"} if stage == "rl_checkpoint" else set())
    phases = {"checkpoint": 4, "between": 1, "update": 1, "rollout": 1, "eval": 1}
    assert outcome.phases == (phases if stage == "rl_checkpoint" else {"checkpoint": 6, "between": 1, "update": 1})
    assert outcome.max_difference == 0.0 and outcome.same_rows and outcome.same_weights
    assert 8 <= outcome.redone <= 8 * (SAVE_EVERY + 2), "a kill costs the steps since the last save, and some do"
    assert outcome.left_in_work == 0, "published: nothing unfinished is left"
    log = (Path(made.folder) / "worker.log").read_text()
    assert "resuming after step" in log


@pytest.mark.slow
def test_a_reward_that_changes_changes_at_the_same_steps_after_kills(
    made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a policy that answers in form half of the time: a run that forgot the end of the bonus would pay it again."""

    def publish(asset: str, write: Callable[[Path], None]) -> Artifact:
        folder = tmp_path / asset
        folder.mkdir()
        write(folder)
        return made.store.publish(
            asset=asset, kind=STAGES[asset].kind, directory=folder, config={}, profile="kill", code=CODE, parents=(),
            metrics={}, seeds={}, run_id="run-0",
        )  # fmt: skip

    def questions(folder: Path) -> None:
        write_questions(folder / "train.parquet", reading_questions(40))
        write_questions(folder / "validation.parquet", reading_questions(20, first=1000))

    def policy(folder: Path) -> None:
        reading_tokenizer().save(tmp_path / "tokenizer.json")
        save_checkpoint(folder, guesser(), tmp_path / "tokenizer.json")

    for asset, write in {"aqua_dataset": questions, "sft_checkpoint": policy}.items():
        monkeypatch.setitem(made.made, asset, publish(asset, write))
    reward = {"kind": "probability", "exact_after": 0.5, "format_bonus": 0.1, "format_bonus_until": 0.5}
    changes = {"steps": 24, "prompts_per_step": 4, "reward": reward, "temperature": 1.6, "optim": {"lr_scale": 0.3}}
    at = [("step", 3), ("update", 5), ("commit", 1), ("rollout", 20), ("step", 5), ("update", 2)]
    outcome = made.kill("rl_checkpoint", at, config=CONFIGS["rl_checkpoint"] | changes)
    assert outcome.died == len(at) and outcome.passed, outcome
    ended = made.store.latest("rl_checkpoint")
    assert ended is not None
    rows = [json.loads(line) for line in ended.record("metrics.jsonl").read_text().splitlines()][1:]
    bonuses = [row["rl/format_bonus"] for row in rows]
    n = bonuses.index(0.0)
    assert bonuses == [0.1] * n + [0.0] * (24 - n) and 0 < n < 20
    assert any(row["rl/parse_rate"] <= 0.5 for row in rows[n:]), "it would not have ended at any later step"
    assert ["rl/exact_reward" in row for row in rows] == [False] * 12 + [True] * 12


@pytest.mark.slow
def test_two_ranks_killed_together_end_with_the_same_bytes(made: Chain) -> None:
    at = [("file", 3), ("step", 4), ("commit", 2), ("update", 5)]
    outcome = made.kill("base_checkpoint", at, ranks=(2,))
    assert outcome.died == 4 and outcome.passed, outcome
    assert outcome.max_difference == 0.0 and outcome.same_rows and outcome.same_weights


@pytest.mark.slow
def test_what_two_ranks_began_one_goes_on_with_and_two_end(made: Chain) -> None:
    # Before the second commit of a start its first one is in place, so that every start goes on with another's state.
    outcome = made.kill("base_checkpoint", [("commit", 2), ("commit", 2)], (2, 1), IN_FLOAT32)
    assert outcome.died == 2 and outcome.passed, outcome
    assert 0 < outcome.max_difference <= outcome.tolerance, "it did run on another number of ranks"


def test_points_are_seeded_and_of_every_kind() -> None:
    assert points(24, 1) == points(24, 1) != points(24, 2)
    kinds = [kind for kind, _ in points(24, 1)]
    assert sorted(kinds) == sorted(["file", "half", "commit", "delete", "step", "update"] * 4)
