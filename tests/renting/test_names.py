"""Names of rentals."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from aquarat_pipeline.renting import names
from aquarat_pipeline.renting.names import LATEST_END, LENGTH, RentalName

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
installations = some.text(LETTERS, min_size=6, max_size=6)
rentals = some.text(LETTERS, min_size=8, max_size=8)
ends = some.integers(0, LATEST_END)
rental_names = some.builds(RentalName, installations, rentals, ends)


@given(rental_names)
def test_a_name_is_read_as_it_was_written(name: RentalName) -> None:
    assert names.parse(str(name)) == name


@given(rental_names)
def test_every_provider_takes_a_name(name: RentalName) -> None:
    # Lambda's and RunPod's limits are wider than Compute Engine's, whose rule for names this is.
    assert re.fullmatch(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?", str(name))
    assert len(str(name)) == LENGTH


@given(some.text())
def test_what_is_read_is_written_the_same(text: str) -> None:
    name = names.parse(text)
    assert name is None or str(name) == text


@given(rental_names, some.integers(0, LENGTH - 1), some.characters())
def test_a_changed_letter_makes_another_name_or_none(name: RentalName, at: int, letter: str) -> None:
    text = str(name)
    changed = text[:at] + letter + text[at + 1 :]
    assert (names.parse(changed) == name) is (changed == text)


@given(rental_names, some.text(min_size=1, max_size=3))
def test_nothing_may_stand_around_a_name(name: RentalName, more: str) -> None:
    assert names.parse(f"{name}{more}") is None
    assert names.parse(f"{more}{name}") is None


@pytest.mark.parametrize(
    "foreign",
    [
        None,
        "",
        "aquarat-train",
        "aq-abc123-1",
        "aq-abc1231-abcdefgh-000001",
        "aq-abc123-abcdefgh-000001\n",
        "AQ-abc123-abcdefgh-000001",
        "aq-abc12\u0663-abcdefgh-000001",  # a digit, but not of ours
        "aq-abc123-abcdefgh-00001",
        "aq_abc123_abcdefgh_000001",
    ],
)
def test_other_names_are_foreign(foreign: str | None) -> None:
    assert names.parse(foreign) is None


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (("abc12", "abcdefgh", 1), "installation"),
        (("abc12\n", "abcdefgh", 1), "installation"),
        (("abc123", "ABCDEFGH", 1), "rental"),
        (("abc123", "abcdefgh", -1), "cannot end"),
        (("abc123", "abcdefgh", LATEST_END + 1), "cannot end"),
    ],
)
def test_parts_that_make_no_name_are_refused(parts: tuple[str, str, int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RentalName(*parts)


def test_the_end_is_a_time_in_base_36() -> None:
    assert str(RentalName("abc123", "abcdefgh", 1_796_000_000)) == "aq-abc123-abcdefgh-tpaigw"
    assert int("tpaigw", 36) == 1_796_000_000


def test_random_parts_are_valid_and_differ() -> None:
    made = {str(RentalName(names.new_installation(), names.new_rental(), 0)) for _ in range(1000)}
    assert len(made) == 1000
