"""Worked solutions with calls of the calculator: annotations as published, and those of generated equations."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aquarat_core.conversation import parts_text
from aquarat_core.tasks.calculator import calculate
from aquarat_core.tasks.calls import annotated, annotated_message, annotated_parts


def test_annotations_become_calls_and_the_text_around_them_stays() -> None:
    said = "She sold 48/2 = <<48/2=24>>24 clips.\nIn all <<48+24=72>>72.\n#### 72"
    assert annotated_parts(said) == [
        {"type": "text", "text": "She sold 48/2 = "},
        {"type": "call", "text": "48/2"},
        {"type": "output", "text": "24"},
        {"type": "text", "text": "24 clips.\nIn all "},
        {"type": "call", "text": "48+24"},
        {"type": "output", "text": "72"},
        {"type": "text", "text": "72.\n#### 72"},
    ]
    message = annotated_message(said)
    assert message["content"] == parts_text(message["parts"])


@pytest.mark.parametrize(
    ("annotation", "output"),
    [("18*.5=9.00", "9"), ("2*20*.01=.4", "0.4"), ("24+1000=1,024", "1024"), ("3/4=3/4", "0.75"),
     ("560//10=56", "56"), ("5.=5", "5"), ("'egg'.count('g')=2", "2")],
)  # fmt: skip
def test_the_output_is_what_the_calculator_says(annotation: str, output: str) -> None:
    call = annotation.rpartition("=")[0]
    assert annotated_parts(f"<<{annotation}>>") == [{"type": "call", "text": call}, {"type": "output", "text": output}]


@pytest.mark.parametrize("annotation", ["2+2=5", "10/3=3.33", "2+2", "=4", "", "x+1=2", "2+2=four", "1/0=0", "2+2=4=4"])
def test_what_the_calculator_answers_in_another_way_is_no_call(annotation: str) -> None:
    message = annotated_message(f"So 2+2 = <<{annotation}>>4.")
    assert message == {"role": "assistant", "content": "So 2+2 = 4."}


def test_a_wrong_annotation_leaves_the_others() -> None:
    parts = annotated_parts("a <<1+1=2>>2 b <<1+1=3>>3 c <<2+2=4>>4")
    assert [p["text"] for p in parts] == ["a ", "1+1", "2", "2 b 3 c ", "2+2", "4", "4"]


def test_equations_of_generated_solutions_are_annotated() -> None:
    assert annotated("34 + 31 = 65. 66 / 3 = 22.") == "34 + 31 = <<34+31=65>>65. 66 / 3 = <<66/3=22>>22."
    assert annotated("20% of 15 = 3. 15 - 3 = 12.") == "20% of 15 = <<20/100*15=3>>3. 15 - 3 = <<15-3=12>>12."
    assert annotated("It is 7.") == "It is 7."


def test_the_calculator_gives_the_published_results(shared: Path) -> None:
    files = sorted((shared / "hub/openai/gsm8k/main").glob("*.parquet"))
    if not files:
        pytest.skip("there is no copy of GSM8K beside the checkout")
    annotations = calls = 0
    for file in files:
        for said in pq.read_table(file)["answer"].to_pylist():
            parts = annotated_parts(said)
            assert "".join(p["text"] for p in parts if p["type"] == "text") == re.sub(r"<<[^<>]*>>", "", said)
            outputs = [(p["text"], q["text"]) for p, q in pairwise(parts) if p["type"] == "call"]
            assert all(calculate(call) == output for call, output in outputs)
            annotations += said.count("<<")
            calls += len(outputs)
    assert annotations > 20_000
    assert calls / annotations > 0.999
