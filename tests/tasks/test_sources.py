"""Rows as the Hub publishes them, into conversations."""

from types import ModuleType

import pytest

from aquarat_core.errors import DataError
from aquarat_core.tasks import arc, gsm8k, humaneval, mmlu, smoltalk
from aquarat_core.tasks.aqua.question import parse_answer


def test_gsm8k_calls_the_calculator_and_keeps_the_result_line() -> None:
    row = {"question": " How many? ", "answer": "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 72.\n#### 72"}
    user, reply = gsm8k.conversation(row)
    assert user == {"role": "user", "content": "How many?"}
    assert reply["content"] == (
        "She sold 48/2 = <|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>24 clips.\n"
        "In all 72.\n#### 72"
    )
    assert [part["type"] for part in reply["parts"]] == ["text", "call", "output", "text"]


def test_gsm8k_keeps_the_text_where_the_calculator_disagrees() -> None:
    row = {"question": "How many?", "answer": "That is 7/2 = <<7/2=3>>3.\n#### 3"}
    assert gsm8k.conversation(row)[1] == {"role": "assistant", "content": "That is 7/2 = 3.\n#### 3"}


def test_arc_letters_numbered_choices_by_place() -> None:
    choices = {"text": ["rock", "water", "air", "fire"], "label": ["1", "2", "3", "4"]}
    e = arc.example({"question": "What is wet?", "choices": choices, "answerKey": "2"}, "row")
    user, reply = e.conversation()
    assert user["content"] == (
        'What is wet?\nrock = A\nwater = B\nair = C\nfire = D\nReply with "Answer: " and one letter.'
    )
    assert reply["content"] == "Answer: B"
    assert parse_answer(reply["content"]) == "B"


def test_arc_without_a_valid_key_is_not_used() -> None:
    choices = {"text": ["rock", "water", "air"], "label": ["A", "B", "C"]}
    with pytest.raises(DataError, match="answerKey is D, which is not one of A, B, C"):
        arc.example({"question": "?", "choices": choices, "answerKey": "D"}, "row")


def test_mmlu_counts_from_zero() -> None:
    row = {"question": "Order?", "subject": "algebra", "choices": ["4", "8", "12", "6"], "answer": 3}
    user, reply = mmlu.example(row, "row").conversation()
    assert user["content"].startswith("Order?\n4 = A\n8 = B\n12 = C\n6 = D\n")
    assert reply["content"] == "Answer: D"


def test_humaneval_reply_is_a_function_that_runs() -> None:
    asked = '\n\ndef double(x: int) -> int:\n    """Twice x."""\n'
    row = {"prompt": asked, "canonical_solution": "    return 2 * x\n"}
    user, reply = humaneval.conversation(row)
    assert user["content"].startswith("Complete this Python function.\n```python\ndef double")
    source = reply["content"].removeprefix("```python\n").removesuffix("\n```")
    scope: dict = {}
    exec(compile(source, "reply", "exec"), scope)
    assert scope["double"](21) == 42
    assert humaneval.SOURCE.train is None


def test_smoltalk_keeps_conversations_in_turn_only() -> None:
    def row(*turns: tuple[str, str]) -> dict:
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    good = row(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Bye"))
    assert smoltalk.conversation(good) == good["messages"]
    assert smoltalk.conversation(row(("user", "Hi"))) is None
    assert smoltalk.conversation(row(("assistant", "Hi"), ("user", "Hello"))) is None
    assert smoltalk.conversation(row(("user", "Hi"), ("assistant", "  "))) is None
    assert smoltalk.conversation(row(("system", "Be brief."))) is None
    assert smoltalk.conversation(row()) is None


BAD_ROWS = [
    (smoltalk, {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]}, "content"),
    (smoltalk, {"messages": None}, "messages is null"),
    (smoltalk, {"messages": [None]}, "messages"),
    (gsm8k, {"question": "2+2?", "answer": None}, "answer is null"),
    (arc, {"question": None, "choices": {"label": ["A"], "text": ["x"]}, "answerKey": "A"}, "question is null"),
    (arc, {"question": "q", "choices": None, "answerKey": "A"}, "choices is null"),
    (mmlu, {"question": "q", "choices": ["w", "x"], "answer": -1}, "the answer is option -1, counted from 0, of 2"),
    (mmlu, {"question": "q", "choices": ["w", "x"], "answer": 2}, "the answer is option 2, counted from 0, of 2"),
    (mmlu, {"question": "q", "choices": ["w", "x"], "answer": None}, "answer is null"),
    (mmlu, {"question": "q", "choices": ["w", "x"], "answer": "1"}, "answer is a str instead of a whole number"),
    (mmlu, {"question": "q", "choices": [], "answer": 0}, "choices is empty"),
    (humaneval, {"prompt": "def f():\n", "canonical_solution": None}, "canonical_solution is null"),
]


@pytest.mark.parametrize(("task", "row", "said"), BAD_ROWS)
def test_a_row_that_is_no_conversation_says_why(task: ModuleType, row: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        task.SOURCE.read(row, "row")
