import json
import random
import re

import pytest

from aquarat_core.errors import DataError
from aquarat_core.evaluation import plots
from aquarat_core.evaluation.stylesheet import STYLESHEET


def test_metrics_become_panels_and_odd_values_are_left_out() -> None:
    rows = [{"step": 0, "train/loss": 3.0}, {"step": 1, "train/loss": float("nan")}, {"step": 2, "train/loss": 1.0}]
    rows += [{"step": 2, "val/bpb": 0.9, "time/rollout": 4.0}]
    loss, bpb = plots.curve_panels(rows, "mid")
    assert (loss.title, loss.unit) == ("mid: Loss", "nats per token")
    assert loss.series == (plots.Series("train/loss", (0.0, 2.0), (3.0, 1.0)),)
    assert bpb.series == (plots.Series("val/bpb", (2.0,), (0.9,)),)
    assert plots.curve_panels([{"step": 1, "lr": 0.1}]) == []


def test_rewards_on_two_scales_are_two_curves() -> None:
    rows = [{"step": i, "rl/mean_reward": 0.4} for i in (1, 2)]
    rows += [{"step": i, "rl/mean_reward": 0.2, "rl/exact_reward": 0.2} for i in (3, 4)]
    (panel,) = plots.curve_panels(rows)
    assert panel.series == (
        plots.Series("rl/mean_reward", (1.0, 2.0), (0.4, 0.4)), plots.Series("rl/exact_reward", (3.0, 4.0), (0.2, 0.2))
    )  # fmt: skip


def test_long_curves_are_averaged_in_bins() -> None:
    rows = [{"step": i, "train/loss": float(i % 2)} for i in range(1200)]
    (panel,) = plots.curve_panels(rows)
    assert len(panel.series[0].values) == 300
    assert set(panel.series[0].values) == {0.5}
    assert panel.series[0].steps[:2] == (1.5, 5.5)


def test_running_mean_does_not_lag() -> None:
    line = [2.0 * i for i in range(100)]
    smooth = plots._running_mean(line)
    assert smooth[10:90] == pytest.approx(line[10:90])
    assert smooth[0] == pytest.approx(sum(line[:6]) / 6)  # the window of 5 points either side, cut off at the start


def noisy_rows(n: int) -> list[dict]:
    rng = random.Random(1)
    names = ["train/loss", "val/loss", "val/bpb", "rl/mean_reward", "eval/accuracy", "rl/kl_sequence_mean"]
    return [{"step": i, **{name: rng.random() for name in names}} for i in range(n)]


def test_svg_takes_its_colours_from_the_page_and_repeats_exactly() -> None:
    panels = plots.curve_panels(noisy_rows(2000))
    svg = plots.to_svg(plots.draw_curves(panels), "curves")
    assert svg == plots.to_svg(plots.draw_curves(panels), "curves")
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert "var(--series-1)" in svg and "var(--muted)" in svg and plots.SERIES[0] not in svg
    assert 'id="figure_1"' not in svg and 'id="curves-figure_1"' in svg
    assert ">Reward and accuracy</text>" in svg


def test_png_of_noisy_panels_fits_into_an_event() -> None:
    uri = plots.to_png_data_uri(plots.draw_curves(plots.curve_panels(noisy_rows(2000))))
    assert uri.startswith("data:image/png;base64,iVBORw0KGgo")
    assert len(uri) < 60_000


def test_accuracy_figure_names_every_stage_and_both_baselines() -> None:
    points = [plots.Accuracy("sft_checkpoint", 0.31, 0.28, 0.34), plots.Accuracy("rl_checkpoint", 0.6, 0.57, 0.63)]
    svg = plots.to_svg(plots.draw_accuracies(points, 0.25, 0.28, "letter"), "accuracy")
    for text in ("sft_checkpoint", "rl_checkpoint", "guessing", "best constant letter"):
        assert f">{text}</text>" in svg


def test_accuracy_figure_of_open_answers_leaves_guessing_out() -> None:
    points = [plots.Accuracy("rl_checkpoint", 0.6, 0.57, 0.63)]
    svg = plots.to_svg(plots.draw_accuracies(points, 0.0, 0.04, "answer"), "accuracy")
    assert ">best constant answer</text>" in svg
    assert ">guessing</text>" not in svg


def test_damaged_metrics_are_refused_by_line(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 0, "train/loss": 1.5}) + "\n")
    assert plots.read_metrics(path) == [{"step": 0, "train/loss": 1.5}]
    path.write_text('{"step": 0}\n{"step": 1, "tr')
    with pytest.raises(DataError, match=r"metrics.jsonl line 2 is not JSON"):
        plots.read_metrics(path)
    path.write_text('{"loss": 0}\n')
    with pytest.raises(DataError, match=r"line 1 is no metrics row: it needs an object with a 'step'"):
        plots.read_metrics(path)


def test_all_of_the_accuracy_figure_is_seen_on_a_phone() -> None:
    """On a screen of 390 pixels a figure has 316, and is not made narrower than 0.6 of its width."""
    svg = plots.to_svg(plots.draw_accuracies([plots.Accuracy("a", 0.9, 0.8, 0.95)], 0.2, 0.25, "letter"), "accuracy")
    found = re.search(r"--width: (\d+)px", svg)
    assert found is not None and 0.6 * int(found[1]) < 316
    assert "min-width: min(32rem, .6 * var(--width, 53rem))" in STYLESHEET and "max-width: var(--width)" in STYLESHEET
