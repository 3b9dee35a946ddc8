"""Identity conversations: the name given, seeded, in turn, and varied."""

from aquarat_core.data.identity import generate_identity


def test_rows_depend_on_seed_and_row_alone() -> None:
    assert generate_identity(50, 1, "Ada")[:20] == generate_identity(20, 1, "Ada")
    assert generate_identity(50, 1, "Ada") != generate_identity(50, 2, "Ada")


def test_the_name_is_said_and_nothing_is_left_to_fill_in() -> None:
    rows = generate_identity(500, 1, "Ada")
    text = [m["content"] for row in rows for m in row]
    assert sum("Ada" in t for t in text) > 200
    assert not any("{" in t or "}" in t for t in text)
    assert len({str(row) for row in rows}) > 300


def test_user_and_assistant_take_turns() -> None:
    for row in generate_identity(200, 3, "Ada"):
        assert [m["role"] for m in row] == ["user", "assistant"] * (len(row) // 2)
        assert len(row) in (2, 4)


def test_facts_of_the_config_are_said_as_given() -> None:
    facts = (("Who made you?", "The {name} people of Ulm."),)
    rows = generate_identity(300, 1, "Ada", facts)
    answers = [
        b["content"] for row in rows for a, b in zip(row[::2], row[1::2], strict=True) if "made you" in a["content"]
    ]
    assert 70 < len(answers) < 130 and set(answers) == {"The {name} people of Ulm."}
    assert generate_identity(50, 1, "Ada") == generate_identity(50, 1, "Ada", ())
