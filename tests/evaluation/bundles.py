"""A small evaluation bundle that is made up, with one task of each kind that the real one has, and more."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path
from typing import Any

WORDS = (
    "train", "speed", "hour", "cost", "number", "sum", "shop", "price", "boat", "river", "share", "profit", "work",
    "days", "men", "age", "ratio", "mile", "tank",
)  # fmt: skip
TASKS: dict[str, dict[str, Any]] = {
    "jeopardy": {"icl_task_type": "language_modeling", "num_fewshot": [10], "continuation_delimiter": "\nAnswer: "},
    "arc_easy": {"icl_task_type": "multiple_choice", "num_fewshot": [10], "continuation_delimiter": "\nAnswer: "},
    "copa": {"icl_task_type": "multiple_choice", "num_fewshot": [0, 5]},
    "commonsense_qa": {"icl_task_type": "multiple_choice", "num_fewshot": [2], "has_categories": True},
    "lambada_openai": {"icl_task_type": "language_modeling", "num_fewshot": [0]},
    "winograd": {"icl_task_type": "schema", "num_fewshot": [0]},
    "winogrande": {"icl_task_type": "schema", "num_fewshot": [3], "continuation_delimiter": " - "},
    "bigbench_operators": {
        "icl_task_type": "language_modeling", "num_fewshot": [1], "continuation_delimiter": "",
    },
}  # fmt: skip
"""Labels of real tasks, since no others are allowed; the questions have nothing to do with them."""
METADATA = """Eval Task,Task Category,Task Type,#shots,#datapoints,Random baseline,Centered Metric?,Description
mmlu_zeroshot,world knowledge,multiple choice,0,14042,25,,"not CORE, and with a comma"
jeopardy,world knowledge,language modeling,10,2117,0,,a
commonsense_qa,commonsense reasoning,multiple choice,10,1221,{commonsense},,"a
description with a line break"
"""


def write_bundle(folder: Path, n: int = 24, commonsense: float = 40.3) -> Path:
    """The bundle in `folder`, with `n` rows a task."""
    described = [{"label": label, "dataset_uri": f"made_up/{label}.jsonl"} | task for label, task in TASKS.items()]
    (folder / "eval_data" / "made_up").mkdir(parents=True)
    # JSON is YAML.
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": described}))
    (folder / "eval_meta_data.csv").write_text(METADATA.format(commonsense=commonsense))
    for label in TASKS:
        write_rows(folder, label, [row_of(label, i) for i in range(n)])
    return folder


def write_rows(folder: Path, label: str, rows: list[Any]) -> None:
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    (folder / "eval_data" / "made_up" / f"{label}.jsonl").write_text(text, encoding="utf-8")


def row_of(label: str, i: int) -> dict[str, Any]:
    """Row i of a task."""
    rng = random.Random(f"{label} {i}")

    def text(low: int = 3, high: int = 12) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))

    match label:
        case "jeopardy":
            return {"context": f" {text()}: the {text()}?\n", "continuation": text(1, 3), "category": "x"}
        case "lambada_openai":
            return {"context": f"{text(20, 40)} \u2028 \u201c{text()}", "continuation": f"{rng.choice(WORDS)} "}
        case "bigbench_operators":  # cut within words, so that not every prompt has ids that begin the other's
            whole = text(4, 8)
            cut = rng.randint(1, len(whole) - 1)
            return {"context": whole[:cut], "continuation": whole[cut:]}
        case "winograd" | "winogrande":
            start, contexts = text(), [rng.choice(WORDS) for _ in range(2 + i % 2)]
            options = [f"{start} because the {context}" for context in contexts]
            return {"context_options": options, "continuation": f"{text(2, 5)}.", "gold": i % len(options)}
        case "commonsense_qa":
            options = "".join(f"{letter}. {text(1, 2)}\n" for letter in "ABCDE"[: 3 + i % 3])
            return {"query": f"{text()}?\n{options}Answer:", "choices": list("ABCDE")[: 3 + i % 3], "gold": i % 3}
        case _:
            choices = [text(1, 4) for _ in range(2 + i % 3)]
            if i % 5 == 0:
                choices.append(choices[0])  # equal ones
            if i % 7 == 0:
                choices.append(f"{choices[-1]} {text(1, 2)}")  # one that begins with another
            return {"query": f"{text()}?", "choices": choices, "gold": rng.randrange(len(choices))}


def zipped(folder: Path, archive: Path, top: str = "eval_bundle/") -> Path:
    """The bundle in `folder` as a zip file."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            out.write(path, f"{top}{path.relative_to(folder)}")
    return archive
