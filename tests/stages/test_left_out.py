"""What SFT and mid-training say of conversations that do not fit a row."""

from aquarat_core.data.packing import pack_conversations
from aquarat_core.stages.chat_training import _left_out


def test_conversations_that_do_not_fit_are_said_with_their_number_and_reason() -> None:
    packed = pack_conversations([([1] * n, [1] * n) for n in (3, 9, 4, 12, 5)], T=7, pad=0, vocab_size=10)
    assert _left_out("training", packed, 7) == (
        "2 of 5 training conversations are left out: they are longer than a row of 8 tokens (model.sequence_len + 1)"
    )


def test_nothing_is_said_where_all_fit() -> None:
    packed = pack_conversations([([1] * 3, [1] * 3)], T=7, pad=0, vocab_size=10)
    assert _left_out("training", packed, 7) is None
