"""What SFT and mid-training say of conversations that do not fit a row."""

from aquarat_core.stages.chat_rows import Packed, too_long_said


def test_conversations_that_do_not_fit_are_said_with_their_share_and_reason() -> None:
    left_out, warning = too_long_said("training", Packed(kept=3, trimmed=0, too_long=2, padding=0.1), 7)
    assert left_out == (
        "2 of 5 training conversations (40.0%) are left out: they are longer than a row of 8 tokens "
        "(model.sequence_len + 1)"
    )
    assert warning == (
        "warning: 40% of the training conversations are not used: to keep their first turns set too_long: trim, or "
        "train with a longer base_checkpoint.model.sequence_len"
    )


def test_what_is_trimmed_is_said_and_no_reason_for_a_warning() -> None:
    trimmed, left_out = too_long_said("training", Packed(kept=98, trimmed=40, too_long=2, padding=0.1), 1023)
    assert trimmed == (
        "40 of 100 training conversations (40.0%) lose their last turns: they do not fit a row of 1,024 tokens "
        "(model.sequence_len + 1)"
    )
    assert left_out.startswith("2 of 100 training conversations (2.0%) are left out")


def test_nothing_is_said_where_all_fit() -> None:
    assert list(too_long_said("training", Packed(kept=1, trimmed=0, too_long=0, padding=0.1), 7)) == []
