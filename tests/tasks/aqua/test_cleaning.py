"""Cleaning: each rule on a row made for it, and its count."""

from typing import Any

import pytest

from aquarat_core.errors import DataError
from aquarat_core.tasks.aqua.cleaning import clean
from aquarat_core.tasks.aqua.question import parse_answer, target

PLACES = ("river", "bridge", "tower", "market", "garden", "school", "harbour", "station", "village", "castle")


def row(n: int, **changes: Any) -> dict[str, Any]:
    """A clean published row; different n have nothing but the words of the template in common."""
    place = PLACES[n % len(PLACES)]
    published = {
        "question": f"{n + 2} {place} {place}s stand near {place} {n}; count {place} twice {place}, how many {place}?",
        "options": [f"{letter}){n + i}" for i, letter in enumerate("ABCDE")],
        "rationale": f"2 * {n} = {2 * n}\nANSWER:C",
        "correct": "C",
    }
    return published | changes


def clean_train(*rows: dict[str, Any], **options: Any):
    return clean({"train": list(rows)}, "owner/name", **options)


def test_a_clean_row_loses_prefixes_and_answer() -> None:
    (q,) = clean_train(row(3)).splits["train"]
    assert q.options == ("3", "4", "5", "6", "7")
    assert q.rationale == "2 * 3 = 6"
    assert (q.id, q.correct, q.family, q.level) == ("train-000000", "C", "aqua", 0)
    assert parse_answer(target(q)) == "C"


def test_prefixes_in_all_their_forms() -> None:
    options = ["A)A)59", "B)B) 61", " C)63", "D) 72 ", "67"]
    cleaned = clean_train(row(0, options=options))
    assert cleaned.splits["train"][0].options == ("59", "61", "63", "72", "67")
    counts = cleaned.counts["train"]
    assert counts["option_prefix_doubled"] == 2
    assert counts["option_prefix_missing"] == 1
    assert counts["option_space"] == 2  # " 61" and " 72 "


def test_text_that_looks_like_another_letters_prefix_stays() -> None:
    options = ["A)B) is true", "B)A", "C)(c) alone", "D)f(D)", "E)E"]
    assert clean_train(row(0, options=options)).splits["train"][0].options == (
        "B) is true", "A", "(c) alone", "f(D)", "E"
    )  # fmt: skip


def test_space_is_tidied_and_powers_stay_powers() -> None:
    changed = row(0, question="  Area  of\ta  field of 4 m² ?\r\n\r\nRound it. ", rationale="x²  = ½\n\n\nAnswer: C")
    cleaned = clean_train(changed, row(1))
    q, _ = cleaned.splits["train"]
    assert q.question == "Area of a field of 4 m² ?\nRound it."
    assert q.rationale == "x² = ½"
    assert cleaned.counts["train"]["question_space"] == 1 and cleaned.counts["train"]["rationale_answer_stripped"] == 2


def test_a_second_marker_in_a_rationale_is_rewritten_and_counted() -> None:
    inner = row(0, rationale="The first answer: 4 is too small.\n2 * 3 = 6\nANSWER:C")
    cleaned = clean_train(inner, row(1))
    assert cleaned.splits["train"][0].rationale == "The first answer = 4 is too small.\n2 * 3 = 6"
    assert cleaned.counts["train"]["rationale_marker_rewritten"] == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": ["A)1", "B)2", "C)3", "D)4"]}, "4 options instead of five"),
        ({"options": None}, "0 options instead of five"),
        ({"options": ["A)1", "B)2", "C)3", "D)4", None]}, "an option is missing"),
        ({"correct": "F"}, "the letter 'F' is not one of A-E"),
        ({"correct": "c"}, "the letter 'c' is not one of A-E"),
        ({"correct": "CD"}, "the letter 'CD' is not one of A-E"),
        ({"correct": ""}, "the letter '' is not one of A-E"),
        ({"correct": None}, "the letter None is not one of A-E"),
        ({"question": " "}, "the question is empty"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_bad_row_is_an_error_or_dropped(changes: dict[str, Any], said: str, split: str) -> None:
    rows = [row(0), row(1, **changes), row(2)]
    with pytest.raises(DataError) as error:
        clean({split: rows}, "owner/name")
    assert str(error.value).startswith(f"owner/name, split {split}, row 1: {said}. Set aqua_dataset.on_bad_row to")
    cleaned = clean({split: rows}, "owner/name", on_bad_row="drop")
    assert [q.id for q in cleaned.splits[split]] == [f"{split}-000000", f"{split}-000002"]
    assert cleaned.counts[split]["dropped_bad_row"] == 1


DOUBTFUL = {
    "letter_contradicts_rationale": row(1, rationale="2 * 1 = 2\nANSWER:B"),
    "ambiguous_options": row(2, options=["A)1", "B)2", "C)7", "D)4", "E)7"]),
    "empty_option": row(3, options=["A)", "B)2", "C)7", "D)4", "E)8"]),
    "empty_rationale": row(4, rationale="Answer is C"),
}


def test_doubtful_rows_leave_training_but_not_the_test() -> None:
    rows = [row(0), *DOUBTFUL.values()]
    train = clean({"train": rows}, "owner/name")
    assert [q.id for q in train.splits["train"]] == ["train-000000"]
    test = clean({"test": rows}, "owner/name")
    assert len(test.splits["test"]) == 5
    for doubt in DOUBTFUL:
        assert train.counts["train"][f"dropped_{doubt}"] == 1
        assert test.counts["test"][doubt] == 1
    assert train.counts["train"]["rows"] == 5 and train.counts["train"]["kept"] == 1


def test_a_wrong_option_twice_is_not_ambiguous() -> None:
    assert len(clean_train(row(0, options=["A)1", "B)1", "C)7", "D)4", "E)8"])).splits["train"]) == 1


def test_training_rows_near_held_out_ones_go_and_are_named() -> None:
    test = [row(0), row(1)]
    numbers = row(0, question=row(0)["question"].replace("2", "9"))
    similar = row(1, question=row(1)["question"].replace("how many", "say how often"))
    cleaned = clean({"train": [row(5), row(1), numbers, similar], "test": test}, "owner/name")
    assert [q.id for q in cleaned.splits["train"]] == ["train-000000"]
    assert [(leak.row, leak.held_out, leak.rule) for leak in cleaned.leaks] == [
        ("train-000001", "test-000001", "same_text"),
        ("train-000002", "test-000000", "same_but_numbers"),
        ("train-000003", "test-000001", "similar"),
    ]
    counts = cleaned.counts["train"]
    assert counts["dropped_near_held_out_same_text"] == 1
    assert counts["dropped_near_held_out_same_but_numbers"] == 1
    assert counts["dropped_near_held_out_similar"] == 1
    assert [q.id for q in cleaned.splits["test"]] == ["test-000000", "test-000001"]


def test_a_training_row_that_repeats_another_goes() -> None:
    shuffled = row(0, options=["A)4", "B)3", "C)2", "D)1", "E)0"], correct="C")
    cleaned = clean_train(row(0), row(0), shuffled, row(0, options=["A)9", "B)8", "C)2", "D)1", "E)0"]))
    assert [q.id for q in cleaned.splits["train"]] == ["train-000000", "train-000003"]
    assert cleaned.counts["train"]["dropped_repeated"] == 2


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    clean({"train": [row(0), row(1)], "test": [row(2)]}, "owner/name", progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
