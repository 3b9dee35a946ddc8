"""What rings during a run, and what does not."""

from __future__ import annotations

import json

from aquarat_core.rl.alarms import Monitors

CALM = {"rl/parse_rate": 0.9, "rl/acc": 0.3, **{f"rl/letter_{x}": 0.2 for x in "ABCDE"}}


def lean(share: float) -> dict[str, float]:
    return {**{f"rl/letter_{x}": (1 - share) / 4 for x in "BCDE"}, "rl/letter_A": share}


def test_a_calm_run_rings_nothing() -> None:
    alarms = Monitors({"": "ABCDE"})
    for step in range(50):
        assert alarms.watch(CALM | {"rl/acc": 0.3 + 0.01 * step, "eval/accuracy": 0.3 + 0.01 * step}) == (0, [])


def test_a_letter_that_takes_over_rings_once_and_counts_while_it_lasts() -> None:
    alarms = Monitors({"": "ABCDE"})
    alarms.watch(CALM)
    seen = [alarms.watch(CALM | lean(0.9)) for _ in range(5)]
    # Smoothed by 0.8: 0.34, 0.45, 0.54, ...
    assert [n for n, _ in seen] == [0, 1, 1, 1, 1]
    ((text,),) = [new for _, new in seen if new]
    assert text.startswith("alarm: 45% of the answers are A (bound 45%): the policy is collapsing onto a letter")
    for _ in range(20):
        n, new = alarms.watch(CALM)
    assert (n, new) == (0, [])


def test_one_odd_step_is_no_alarm() -> None:
    alarms = Monitors({"": "ABCDE"})
    alarms.watch(CALM)
    assert alarms.watch(CALM | lean(1.0))[0] == 0


def test_a_policy_that_loses_the_form_rings() -> None:
    alarms = Monitors({"": "ABCDE"})
    alarms.watch(CALM)
    seen = [alarms.watch(CALM | {"rl/parse_rate": 0.1}) for _ in range(3)]
    assert [n for n, _ in seen] == [0, 1, 1]
    assert "have the answer format, down from 90%: the policy is losing the format" in seen[1][1][0]


def test_reward_and_held_out_accuracy_that_part_ways_ring() -> None:
    alarms = Monitors({"": "ABCDE"})
    alarms.watch(CALM | {"eval/accuracy": 0.3})
    for _ in range(20):
        alarms.watch(CALM | {"rl/acc": 0.6})
    n, (text,) = alarms.watch(CALM | {"rl/acc": 0.6, "eval/accuracy": 0.28})
    assert n == 1 and "accuracy in training rose by +0.297, held-out accuracy by -0.020" in text


def test_steps_that_teach_nothing_ring() -> None:
    alarms = Monitors({"": "ABCDE"})
    alarms.watch(CALM | {"rl/silent": 0.0})
    seen = [alarms.watch(CALM | {"rl/silent": 1.0}) for _ in range(6)]
    # Smoothed by 0.8: 0.20, 0.36, 0.49, 0.59, ...
    assert [n for n, _ in seen] == [0, 0, 0, 1, 1, 1]
    assert seen[3][1][0].startswith("alarm: 59% of the last steps taught nothing")
    assert sum(len(new) for _, new in seen) == 1


def test_a_restored_watch_goes_on_as_the_first_would() -> None:
    first, second = Monitors({"": "ABCDE"}), Monitors({"": "ABCDE"})
    first.watch(CALM | {"eval/accuracy": 0.3})
    first.watch(CALM | lean(0.9))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for _ in range(3):
        assert first.watch(CALM | lean(0.9)) == second.watch(CALM | lean(0.9))


def test_open_answers_are_watched_without_letters() -> None:
    monitors = Monitors({})
    calm = {"rl/parse_rate": 0.9, "rl/acc": 0.3}
    assert [monitors.watch(calm) for _ in range(3)] == [(0, [])] * 3
    assert [monitors.watch(calm | {"rl/parse_rate": 0.1})[0] for _ in range(3)] == [0, 1, 1]
