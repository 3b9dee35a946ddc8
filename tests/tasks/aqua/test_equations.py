"""Which equations of a rationale get a call, which do not, and what the call is."""

from __future__ import annotations

from pathlib import Path

import pytest

from aquarat_core.conversation import parts_text, without_calls
from aquarat_core.evaluation.forced import ForcedCue
from aquarat_core.evaluation.interpret.batch import letter_context
from aquarat_core.evaluation.letters import letter_ids
from aquarat_core.tasks.aqua.equations import equation_calls, with_calls
from aquarat_core.tasks.aqua.files import read_questions, write_questions
from aquarat_core.tasks.aqua.question import (
    LETTERS,
    Question,
    conversation,
    parse_answer,
    permute,
    target,
    target_parts,
)
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.tasks.calls import annotated_parts
from aquarat_core.tasks.option_order import letter_free
from aquarat_core.text.chat import render, render_prompt
from tests.factories import AQUA, tokenizer

OPTIONS = ("15", "16", "17", "18", "19")


def question(rationale: str) -> Question:
    return Question("q0", "How many?", OPTIONS, rationale, "A")


def marked(text: str) -> str:
    """`text` with its calls as annotations of GSM8K."""
    found, at = "", 0
    for call in equation_calls(text):
        assert call.start == call.end, "a call takes nothing away"
        found += f"{text[at : call.start]}<<{call.expression}>>"
        at = call.start
    return found + text[at:]


@pytest.mark.parametrize(
    "expected",
    [
        "5 * 3 = <<5*3>>15",
        "5*3=<<5*3>>15",
        "He earned 5 * 3 = <<5*3>>15 dollars.",
        "The sum is (5 + 3) * 2 = <<(5+3)*2>>16.",
        "(5 + 3 = <<5+3>>8)",
        "Step one: 5 + 3 = <<5+3>>8",
        "So, 5 + 3 = <<5+3>>8, and 8 / 2 = <<8/2>>4; 4 - 5 = <<4-5>>-1",
        "-5 + 3 = <<-5+3>>-2",
        # how numbers are written
        "1,200 * 3 = <<1200*3>>3,600",
        "1,00,000 + 20,000 = <<100000+20000>>1,20,000",
        "1200 * 3 = <<1200*3>>3,600.00",
        "12.50 * 2 = <<12.50*2>>25.00",
        "1/4 = <<1/4>>.25",
        "246913578024691357/2 = <<246913578024691357/2>>123456789012345678.5",
        # chains
        "x = 30/2 = <<30/2>>15",
        "5 + 3 = 8 - 2 = <<8-2>>6",
        "15 * 2 / 2 = <<15*2/2>>15 = x",
        "5 * 4 = <<5*4>>20 = 10 * 2 = <<10*2>>20",
        # letters and powers
        "7x18 = <<7*18>>126",
        "7X18 = <<7*18>>126",
        "2^3 * 5 = <<2^3*5>>40",
        "(1 + 2)**2 = <<(1+2)**2>>9",
        # units and currency on the right
        "1/4 * 100 = <<1/4*100>>25%",
        "1/4 * 100 = <<1/4*100>>25 %.",
        "100 * 4 = Rs. <<100*4>>400",
        "100 * 4 = Rs <<100*4>>400.",
        "100 * 4 = $<<100*4>>400",
        "100 * 4 = <<100*4>>400$",
        "5 * 3 = <<5*3>>15km",
        "5 * 3 = <<5*3>>15 km/hr",
        "5 * 3 = <<5*3>>15 m",
        "5 * 3 = <<5*3>>15 m/s = 54 km/hr",
        "5 * 3 = <<5*3>>15 m\u00b2",
        "30 * 3 = <<30*3>>90\u00b0",
        "5 * 3 = <<5*3>>15 (the sum of all)",
        "6/3 = <<6/3>>2 : it is even",
        "5 * 3 = <<5*3>>15\n16 is more",
    ],
)
def test_what_gets_a_call(expected: str) -> None:
    text = "".join(part.partition(">>")[2] if n else part for n, part in enumerate(expected.split("<<")))
    assert marked(text) == expected


@pytest.mark.parametrize(
    "kept",
    [
        # wrong or rounded arithmetic
        "5 * 3 = 16",
        "10/3 = 3.33",
        "2/3 = 0.666667",
        "1/8000000 = 0",
        "1/8000000 = 0.000000125",
        "246913578024691357/2 = 123456789012345680",
        "2/3 = 0.67",
        "10/3 = 3.333333...",
        "5 * 3 = 15..",
        "1200 * 3 = 3.600",
        # no expression, or none with an operation
        "x = 15",
        "15 = 15",
        "(15) = 15",
        "-15 = -15",
        "15 = 5 * 3",
        # variables
        "3x = 45",
        "x - 5 + 3 = -2",
        "x 5 * 3 = 15",
        "5 * 3 = 15x",
        "5 * 3 = 15 x",
        "3 * x = 15",
        "5 * 3 = 15xy",
        "5 * 3 = 15(xy)",
        "5 * 3 = \u0661\u0665",
        "5 * 3 = 15\u0661",
        # words that belong to a side
        "negative 5 * 3 = 15",
        "Negative 5 * 3 = 15",
        "x multiplied by 5 * 3 = 15",
        "x divided by 5 * 3 = 15",
        "x raised to 5 * 3 = 15",
        "x raised to the 5 * 3 = 15",
        "x over 5 * 3 = 15",
        "20 choose 5 * 3 = 15",
        "x modulo 5 * 3 = 15",
        "x squared 5 * 3 = 15",
        "x times 5 * 3 = 15",
        "5 * 3 = 15 squared",
        "5 * 3 = 15 Cubed",
        "5 * 3 = 15 raised to 2",
        "5 * 3 = 15 to the power of 2",
        "5 * 3 = 15 to the second power",
        "5 * 3 = 15 power 2",
        "5 * 3 = 15 multiplied by 2",
        "5 * 3 = 15 divided by 2",
        "5 * 3 = 15 over 2",
        "5 * 3 = 15 choose 2",
        "5 * 3 = 15 modulo 2",
        "5 * 3 = 15 times 2",
        "cost - 5 + 3 = -2",
        # units and percent within an expression
        "5 km + 3 km = 8 km",
        "50 * 20% = 10",
        "20% of 50 = 10",
        "half of 16 - 1 = 15",
        "100% - 85% = 15%",
        "$5 + $3 = $8",
        # sides that go on
        "5 * 3 = 15 + 2",
        "5 * 3 = 15/2",
        "5 * 3 = 15 * 2",
        "5 * 3 = 15 (2)",
        "5 * 3 = 15(2 + 1)",
        "5 * 3 = 15!",
        "5 * 3 = 15\u221a2",
        "5 * 3 = 15 sqrt(2)",
        "5 * 3 = 15 pi",
        "5 * 5 = 25% of 100",
        "5 * 3 = 15 : 4",
        "6 / 3 = 2:1",
        "2:3 + 5 = 8",
        "2 : 3 + 5 = 8",
        "sqrt 4 + 5 = 9",
        "sqrt(4) + 5 = 9",
        "4! + 6 = 30",
        "3\u00b2 + 6 = 15",
        "30 minutes + 100/100 = 1",
        # fractions, mixed numbers, missing signs
        "1/4 + 1/4 = 1/2",
        "15/2 = 7 1/2",
        "7 1/2 * 2 = 15",
        "2(5 + 3) = 16",
        "(2)(8) = 16",
        # other signs
        "5 * 3 == 15",
        "5 * 3 >= 15",
        "5 * 3 != 15",
        "5 * 3 => 15",
        "5 \u2217 3 = 15",
        "5 \u00d7 3 = 15",
        "30 // 2 = 15",
        "30 / / 2 = 15",
        # what is not one number
        "3,4 + 5 = 39",
        "4,5+3=8",
        "12 5 + 3 = 128",
        "5 + = 5",
        "1/0 = 0",
        "5 * 3 =\n15",
    ],
)
def test_what_gets_none(kept: str) -> None:
    assert marked(kept) == kept


def test_limits() -> None:
    long = " + ".join(["1"] * 90)
    assert marked(f"{long} = 90") == f"{long} = 90", "the calculator reads 200 characters"
    assert marked(f"{'1' * 400} + 1 = 2") == f"{'1' * 400} + 1 = 2"
    assert marked(f"{'word ' * 200}5 * 3 = 15") == f"{'word ' * 200}5 * 3 = <<5*3>>15"
    hostile = "(" * 20_000 + "=" + "1, " * 6_000 + "= 1 " * 5_000
    assert marked(hostile) == hostile


def test_calls_are_those_of_gsm8k() -> None:
    q = with_calls(question("Each has 45/3 = 15 books.\n15 + 1 = Rs. 16"))
    as_published = "Each has 45/3 = <<45/3=15>>15 books.\n15 + 1 = Rs. <<15+1=16>>16"
    assert list(q.rationale_parts) == annotated_parts(as_published)
    assert q.rationale == parts_text(q.rationale_parts)
    plain = question("Nobody knows: 15.")
    assert with_calls(plain) is plain


def test_text_that_looks_like_a_call_stays_text() -> None:
    said = "a <<1+1>> b <|python_start|>2+2<|python_end|> then 5 * 3 = 15"
    q = with_calls(question(said))
    assert without_calls(q.rationale, q.rationale_parts) == said
    assert [p["text"] for p in q.rationale_parts if p["type"] == "call"] == ["5*3"]


def test_readers_of_a_question_with_calls(tmp_path: Path) -> None:
    plain = question("A train: 45/3 = 15.\nSo 15 * 1 = 15.")
    q = with_calls(plain)
    write_questions(tmp_path / "train.parquet", [q, plain])
    assert read_questions(tmp_path / "train.parquet") == [q, plain]
    assert without_calls(target(q), target_parts(q)) == target(plain)
    assert parse_answer(target(q)) == "A" and parse_answer(q.rationale) is None
    assert [parse_answer(f"{q.rationale}\nAnswer: {x}") for x in LETTERS] == list(LETTERS)
    example = to_example(q)
    assert AQUA.grade(example, target(q), ended=True).correct
    assert not any(AQUA.grade(example, a.text, a.ended).correct for a in AQUA.worthless(example).values())
    assert conversation(permute(q, 3))[-1]["parts"][:-1] == conversation(q)[-1]["parts"][:-1]
    assert letter_free(q.rationale, 5) == letter_free(plain.rationale, 5) is False
    assert tokenizer().decode(tokenizer().encode(target(q))) == target(q)


def test_probes_and_the_forced_cue_find_the_letter_after_calls() -> None:
    tok = tokenizer()
    q = with_calls(question("So 45/3 = 15."))
    *context, letter, _ = render(tok, conversation(q))[0]
    ids = letter_ids(tok, AQUA)
    found = letter_context(AQUA, to_example(q), tok, ids)
    assert found is not None and (found.ids, ids[found.gold]) == (context, letter)
    assert tok.special("<|python_start|>") in found.ids
    prompt = render_prompt(tok, conversation(q)[:1])
    cue = ForcedCue(tok, AQUA, "aqua")
    solution = cue.solution([*context[len(prompt) :], letter])
    assert cue.context(prompt, solution) == context
