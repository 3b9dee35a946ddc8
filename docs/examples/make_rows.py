"""Writes two small data sets to try docs/new_dataset.md with: `python docs/examples/make_rows.py FOLDER [ROWS]`.

Writes `shop/` with four options under letters of their own, `tank/` with answers that are numbers, and the profiles of
both. The problems are generated, and told in forms that the project does not use itself.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from aquarat_core.tasks.word_problems import FAMILIES, Problem, draw

SPLITS = {"train": 1.0, "validation": 0.05, "test": 0.1}
"""Number of rows in each split, as a share of the training rows."""
MAX_LEVEL = 2
SHOP = """\
extends: demo
name: shop
description: Questions with four options under letters of their own.

task:
  name: shop
  kind: multiple_choice
  train: train.jsonl
  validation: validation.jsonl
  test: test.jsonl
  columns: {question: stem, options: choices, answer: key, rationale: explanation}
"""
TANK = """\
extends: demo
name: tank
description: Questions whose answer is a number.

task:
  name: tank
  kind: numeric
  train: train.csv
  n_validation: {validation}
  n_test: {test}
  columns: {{question: problem, answer: result, rationale: working}}
"""
REHEARSAL = """\
extends: {name}.yaml
name: {name}_rehearsal
description: A few steps of every stage, to see that all of them run. What comes out knows nothing.

pretrain_text: {{n_documents: 500, n_validation_documents: 50}}
base_checkpoint: {{steps: 4, eval_every: 4, eval_tokens: 2048}}
mid_checkpoint: {{steps: 4, eval_every: 4, eval_tokens: 2048}}
sft_checkpoint: {{steps: 4, eval_every: 4, eval_tokens: 2048}}
rl_checkpoint:
  steps: 2
  prompts_per_step: 4
  group_size: 4
  eval_every: 2
  eval_questions: 8
  # A model that has learned nothing does not answer in form: the checks of the first batch are off.
  min_parse_rate: 0.0
  min_first_reward: 0.0
  max_zero_variance: 1.0
eval_report: {{limit: 20, bpb_tokens: 2048}}
"""


def problems(n: int, seed: str, held_out: bool) -> list[Problem]:
    """n problems with different texts."""
    rng, found = random.Random(seed), dict[str, Problem]()
    while len(found) < n:
        _, _, problem = draw(rng, tuple(FAMILIES), MAX_LEVEL, held_out)
        found[problem.question] = problem
    return list(found.values())


def choice_row(problem: Problem, rng: random.Random) -> dict[str, Any]:
    """A row of `shop`: options as "(a) 12", and the key of the right one as "(b)"."""
    values = {problem.answer, *problem.slips}
    while len(values) < 4:
        values.add(max(0, problem.answer + rng.randint(-9, 9)))
    others = [v for v in values if v != problem.answer][:3]
    options = rng.sample([problem.answer, *others], 4)
    return {
        "stem": problem.question,
        "choices": [f"({letter}) {value}" for letter, value in zip("abcd", options, strict=True)],
        "key": f"({'abcd'[options.index(problem.answer)]})",
        "explanation": problem.rationale,
    }


def main(folder: Path, n: int) -> None:
    held_out = {split: round(n * share) for split, share in SPLITS.items()}
    for name, profile in (("shop", SHOP), ("tank", TANK.format(**held_out))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{name}.yaml").write_text(profile)
        (folder / name / "rehearsal.yaml").write_text(REHEARSAL.format(name=name))
    rng = random.Random(1)
    cut = held_out["validation"]
    made = problems(cut + held_out["test"], "held out", held_out=True)
    rows = {"train": problems(n, "train", held_out=False), "validation": made[:cut], "test": made[cut:]}
    for split, found in rows.items():
        lines = (json.dumps(choice_row(problem, rng)) for problem in found)
        (folder / "shop" / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with (folder / "tank" / "train.csv").open("w") as file:
        file.write("problem,result,working\n")
        for problem in problems(n, "tank", held_out=False):
            file.write(f'"{problem.question}","{problem.answer:,}","{problem.rationale}"\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8_000)
