import pytest

from aquarat_core.errors import DataError
from aquarat_core.evaluation.records import Record, read_records, write_records
from aquarat_core.evaluation.summary import Summary, compare, question_difference, questions_sha256, summarize


def summary_of(records: list[Record], majority: str) -> Summary:
    """Of answers by five letters."""
    return summarize(records, majority, 0.2, "ABCDE")


def record(i: int, gold: str, parsed: str | None, *, question: str = "?", n_tokens: int = 10) -> Record:
    truncated = parsed is None
    return Record(
        f"q{i}", question, gold, f"because\nAnswer: {parsed}", parsed, parsed == gold, n_tokens, truncated,
        "length" if truncated else "stop",
    )  # fmt: skip


def run(right: str, gold: str | None = None) -> list[Record]:
    """One record for each character of `right`: 1 is answered rightly, 0 wrongly. Gold letters cycle through A-E."""
    golds = gold or "ABCDE" * len(right)
    following = dict(zip("ABCDE", "BCDEA", strict=True))
    pairs = enumerate(zip(golds, right, strict=False))
    return [record(i, g, g if mark == "1" else following[g]) for i, (g, mark) in pairs]


def test_summary_of_eight_hand_made_records() -> None:
    pairs = enumerate(zip("AAABBCD", "AABBACD", strict=True))
    records = [record(i, g, p, n_tokens=4 + i) for i, (g, p) in pairs]
    records.append(record(7, "E", None, n_tokens=64))
    s = summary_of(records, "B")
    assert (s["n"], s["correct"], s["accuracy"]) == (8, 5, 5 / 8)
    assert (round(s["accuracy_lo"], 4), round(s["accuracy_hi"], 4)) == (0.3057, 0.8632)
    assert s["constant_letter"] == {"letter": "A", "accuracy": 3 / 8}
    assert s["majority"] == {"letter": "B", "accuracy": 2 / 8}
    assert s["uniform"] == 0.2
    assert s["letters"]["A"] == {"gold": 3, "answered": 3, "correct": 2}
    assert s["letters"]["B"] == {"gold": 2, "answered": 2, "correct": 1}
    assert s["letters"]["E"] == {"gold": 1, "answered": 0, "correct": 0}
    assert (s["parse_rate"], s["truncation_rate"]) == (7 / 8, 1 / 8)
    assert s["mean_tokens"] == (4 + 5 + 6 + 7 + 8 + 9 + 10 + 64) / 8
    # Against always-A: right alone on B, C, D = 3 questions, wrong alone on 1 -> 2 * (1 + 4) / 16.
    assert s["p_against_constant"] == 0.625
    assert s["against_constant"] == "no difference shown"


def test_a_model_that_always_says_the_commonest_letter_is_not_above_the_constant() -> None:
    golds = "A" * 69 + "B" * 66 + "C" * 43 + "D" * 50 + "E" * 26
    s = summary_of([record(i, g, "A") for i, g in enumerate(golds)], "A")
    assert s["accuracy"] == s["constant_letter"]["accuracy"] == 69 / 254
    assert s["letter_entropy_bits"] == 0
    assert s["p_above_uniform"] < 0.01  # which is why 20 % alone is no baseline
    assert (s["p_against_constant"], s["against_constant"]) == (1.0, "no difference shown")


def test_open_answers_have_no_letters_and_no_chance() -> None:
    records = [record(i, g, p) for i, (g, p) in enumerate([("18", "18"), ("18", "4"), ("72", None), ("5", "5")])]
    s = summarize(records, "18", chance=0.0, categories=())
    assert s["constant_letter"] == {"letter": "18", "accuracy": 0.5} and s["majority"]["accuracy"] == 0.5
    assert (s["uniform"], s["p_above_uniform"], s["letters"]) == (0.0, None, {})
    assert (s["accuracy"], s["parse_rate"]) == (0.5, 0.75)
    assert s["letter_entropy_bits"] == pytest.approx(1.585, abs=1e-3)  # three different answers


def test_records_come_back_from_parquet_as_they_were(tmp_path) -> None:
    records = [record(1, "A", None), record(2, "E", "E", question='Räder "| <b>\n∑')]
    write_records(tmp_path / "q.parquet", records)
    assert read_records(tmp_path / "q.parquet") == records
    write_records(tmp_path / "none.parquet", [])
    assert read_records(tmp_path / "none.parquet") == []


def test_a_parquet_of_something_else_is_refused(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="has no column completion, correct, gold"):
        read_records(tmp_path / "x.parquet")


def test_one_question_more_is_never_called_an_improvement() -> None:
    c = compare(run("1" * 69 + "0" * 185), run("1" * 70 + "0" * 184))
    assert (c["both_right"], c["only_parent"], c["only_child"], c["both_wrong"]) == (69, 0, 1, 184)
    assert c["mcnemar_p"] == 1.0
    assert c["difference"] == pytest.approx(1 / 254)
    assert c["verdict"] == "no difference shown"
    assert c["wording"].startswith("No difference between this checkpoint and the parent is shown: +0.4 points")
    assert "improved" not in c["wording"]


def test_a_clear_gain_and_a_clear_loss_are_named_with_their_evidence() -> None:
    low, high = run("1" * 300 + "0" * 700), run("1" * 360 + "0" * 640)
    gain, loss = compare(low, high, ("SFT", "RL")), compare(high, low, ("SFT", "RL"))
    assert gain["verdict"] == "above"
    assert gain["wording"].startswith("RL improved on SFT: +6.0 points, 95% CI [+4.")
    assert gain["difference_lo"] > 0.04
    assert loss["verdict"] == "below"
    assert loss["wording"].startswith("RL is worse than SFT: -6.0 points")


@pytest.mark.parametrize("gained", range(0, 12))
def test_improved_needs_both_the_test_and_the_interval(gained: int) -> None:
    c = compare(run("0" * 40), run("1" * gained + "0" * (40 - gained)))
    assert ("improved" in c["wording"]) == (c["mcnemar_p"] < 0.05 and c["difference_lo"] > 0)
    assert (c["verdict"] == "above") == (gained >= 6)  # 2 / 2^5 = 0.0625, 2 / 2^6 = 0.03125


def test_row_order_does_not_matter_but_questions_do() -> None:
    a, b = run("1100"), run("1010")
    assert compare(a, b[::-1]) == compare(a, b)
    assert questions_sha256(a) == questions_sha256(b[::-1])
    reordered = [record(0, "B", "B"), *b[1:]]
    assert questions_sha256(reordered) != questions_sha256(a)
    assert question_difference(a, reordered) == (
        "1 of 4 questions differ in their text or in the order of their options"
    )
    assert question_difference(a, b[1:]) == "1 question ids are in one evaluation only (4 and 3 questions)"
    with pytest.raises(DataError, match="no paired comparison: 1 of 4"):
        compare(a, reordered)


def test_no_records_and_repeated_ids_are_refused() -> None:
    with pytest.raises(DataError, match="no evaluation records"):
        summary_of([], "A")
    with pytest.raises(DataError, match="1 question ids occur more than once"):
        summary_of([record(1, "A", "A"), record(1, "B", "B")], "A")
