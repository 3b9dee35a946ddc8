"""What a sweep's file may say, which points it makes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from aquarat_core.cli import main
from aquarat_core.errors import UserError
from aquarat_pipeline.sweeps.spec import DEPTH, RATIO, SweepError, read_sweep


def test_fields_and_seeds_make_every_combination(write) -> None:
    sweep = read_sweep(
        write("""
profile: demo
fields:
  sft_checkpoint.steps: [3, 4]
  rl_checkpoint.optim.lr_scale: [0.5, "1e-1"]
seeds: {of: [sft_checkpoint, rl_checkpoint], values: [1, 2]}
reference: {sft_checkpoint.steps: 4}
""")
    )
    assert sweep.name == "lr" and len(sweep.points) == 8
    first, last = sweep.points[0], sweep.points[-1]
    assert first.label == "sft_checkpoint.steps=3, rl_checkpoint.optim.lr_scale=0.5, seed 1"
    assert last.experiment.profile.rl_checkpoint.optim.lr_scale == 0.1
    assert (last.experiment.profile.sft_checkpoint.seed, last.experiment.profile.rl_checkpoint.seed) == (2, 2)
    assert last.experiment.profile.mid_checkpoint.seed == first.experiment.profile.mid_checkpoint.seed
    assert dict(sweep.reference) == {"sft_checkpoint.steps": "4", "rl_checkpoint.optim.lr_scale": "0.5"}
    assert len({point.experiment.name for point in sweep.points}) == 8
    assert last.names[-1] == "rl_eval_report" and "pipeline_report" not in last.names


def test_a_point_keeps_its_name_when_values_are_added(write) -> None:
    few = read_sweep(write("profile: demo\nfields: {sft_checkpoint.steps: [3]}\n"))
    more = read_sweep(write("profile: demo\nfields: {sft_checkpoint.steps: [2, 3]}\n"))
    assert few.points[0].experiment.name == more.points[1].experiment.name


def test_a_ladder_derives_what_follows_a_depth(write) -> None:
    sweep = read_sweep(
        write("""
profile: d12
ladder: {depths: [8, 12], tokens_per_parameter: [8, 16]}
make: [base_eval_report]
""")
    )
    found = {tuple(value for _, value in p.settings): p.experiment.profile.base_checkpoint for p in sweep.points}
    assert list(found) == [("8", "8.0"), ("8", "16.0"), ("12", "8.0"), ("12", "16.0")]
    assert {name for p in sweep.points for name, _ in p.settings} == {DEPTH, RATIO}
    assert found["8", "8.0"].model.width < found["12", "8.0"].model.width
    assert found["8", "16.0"].tokens_per_parameter == 16 and found["8", "8.0"].optim != found["12", "16.0"].optim


@pytest.mark.parametrize("value", ["16", "16.0", "'16'"])
def test_a_reference_is_found_by_its_value_however_it_is_written(write, value: str) -> None:
    ladder = "profile: d12\nladder: {depths: [8, 12], tokens_per_parameter: [8, 16]}\nmake: [base_checkpoint]\n"
    sweep = read_sweep(write(f"{ladder}reference: {{{RATIO}: {value}}}\n"))
    assert dict(sweep.reference) == {DEPTH: "8", RATIO: "16.0"}


def test_a_profile_without_a_depth_takes_the_depth_as_it_is(write) -> None:
    sweep = read_sweep(write("profile: demo\nladder: {depths: [2, 4]}\nmake: [base_checkpoint]\n"))
    assert [p.experiment.profile.base_checkpoint.model.depth for p in sweep.points] == [2, 4]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fields: {sft_checkpoint.stepz: [1]}", "sft_checkpoint.stepz: unknown field; did you mean steps"),
        ("fields: {nothing.steps: [1]}", "a profile has no section 'nothing'"),
        ("fields: {sft_checkpoint.steps: [0]}", "sft_checkpoint.steps"),
        ("fields: {sft_checkpoint.steps: []}", "fields.sft_checkpoint.steps"),
        ("fields: {sft_checkpoint.steps: 3}", "fields.sft_checkpoint.steps"),
        ("fields: {sft_checkpoint.steps: [3, 3]}", "the same point twice: sft_checkpoint.steps=3 and"),
        ("fields: {sft_checkpoint.steps: [3, '3']}", "the same point twice"),
        ("fields: {rl_checkpoint.steps: [3, 4]}\nmake: [sft_checkpoint]", "nothing that the sweep makes"),
        ("seeds: {of: [eval_bundle], values: [1]}", "eval_bundle"),
        ("make: [nothing]", "there is no asset 'nothing'"),
        ("make: []", "make"),
        ("reference: {sft_checkpoint.steps: 9}\nfields: {sft_checkpoint.steps: [3]}", "no point of the sweep lr has"),
        ("fields: {sft_checkpoint.steps: [2026-01-02]}", "sft_checkpoint.steps: 2026-01-02 is no value of a field"),
        ("fields: {sft_checkpoint.steps: [3]}\nreference: {sft_checkpoint.steps: 2026-01-02}", "is no value of"),
        ("fields: {rl_checkpoint.tasks: [{name: 2026-01-02}]}", "is no value of a field: put a date"),
        ("max_points: 501", "max_points"),
        ("feilds: {}", "unknown field; did you mean fields"),
        ("name: Big Sweep", "cannot name a sweep"),
        ("fields: {a: [1], a: [2]}", "'a' is given twice"),
        ("fields: [", "cannot be read"),
        ("- 1", "must be a mapping"),
        ("profile: nope", "unknown profile 'nope'"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused(write, text: str, said: str) -> None:
    profile = "" if "profile" in text or text.startswith("-") else "profile: demo\n"
    with pytest.raises(UserError) as refused:
        read_sweep(write(f"{profile}{text}\n"))
    assert said in str(refused.value)


def test_ten_thousand_points_are_refused_before_any_is_made(write, capsys: pytest.CaptureFixture[str]) -> None:
    values = list(range(1, 101))
    path = write(f"profile: demo\nfields: {{sft_checkpoint.steps: {values}, rl_checkpoint.steps: {values}}}\n")
    assert main(["sweep", str(path), "--plan"]) == 2
    said = capsys.readouterr().err
    assert "describes 10,000 points, more than max_points 32: leave values out, or raise max_points" in said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="a sweep cannot be read"):
        read_sweep(tmp_path / "nothing.yaml")
