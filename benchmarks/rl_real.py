"""RL on real rows of AQuA-RAT and GSM8K: does it learn what it is rewarded for, and only that?

Trains the chain of `real/profile.yaml` up to SFT, then RL and its controls from the same SFT checkpoint (answers that
are numbers have an SFT of their own), each as a stage in a store in the work folder (`--work`), on the rows that
`../shared/tools/hub_server.py` serves. A run that was cut off goes on where it was: started again, it takes what is
made from the store, and a stage from its last checkpoint. Lines are printed as they are measured; they are also in
`results.json` of the work folder.

    ./run bench rl-real                 the whole bench, up to 45 minutes on two free cores
    ./run bench rl-real --quick         a small model on few rows: shows that the parts fit, decides nothing
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from aquarat_core.artifacts import Artifact
from aquarat_core.config import RewardConfig
from aquarat_core.settings import REPO_ROOT, cache_dir
from benchmarks.harness import BenchError, machine
from benchmarks.real import lines
from benchmarks.real.answers import Answers, Of, Questions, shares
from benchmarks.real.chain import PROFILE, QUICK, Chain
from benchmarks.real.lines import Group, Line, at_least, does_not_fall, does_not_rise, measured, not_below_chance, rises
from tests.serving import hub_server

SERVER = REPO_ROOT.parent / "shared/tools/hub_server.py"
FIXED, FEWER, SAMPLES = 64, 32, 8
"""Questions that RL on letters and on numbers is trained on, and samples of each that are measured."""
FEW = {"limit": FIXED}
VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "few": FEW,
    "few_random": FEW | {"reward": {"control": "random"}},
    "few_constant": FEW | {"reward": {"control": "constant"}},
    "few_distilled": FEW | {"distillation": {"teacher": "average"}},
}
"""Changes to RL on letters, by the name of the run."""
NUMBERS = {
    "sft_checkpoint": {"mixture": [{"name": "short", "limit": 400}, {"name": "one_step"}], "steps": 900},
    "rl_checkpoint": {"tasks": [{"name": "one_step"}], "calculator": True, "limit": FEWER, "max_new_tokens": 208},
}
"""Changes to the sections for answers that are numbers. After one SFT on both kinds of answers, 4 of 100 samples on the
problems mixed the two forms."""
SMALLER = {"sft_checkpoint": {"steps": 60}, "rl_checkpoint": {"group_size": 4, "max_new_tokens": 48, "steps": 4}}
"""What a quick run changes in all of them."""


def main(arguments: Sequence[str]) -> int:
    """Makes, asks and prints; the last line of standard output is the results as JSON. Returns 0 if everything could be
    measured, whether the lines passed or not, and 1 otherwise."""
    parser = argparse.ArgumentParser(prog="./run bench rl-real", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model on few rows, in a few minutes")
    parser.add_argument(
        "--reward", choices=get_args(RewardConfig.model_fields["kind"].annotation), default="answer",
        help="what RL is paid for letters (rl_checkpoint.reward.kind); what is measured is always the exact answer",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where parts are kept (default: in the cache)")
    options = parser.parse_args(arguments)
    if not SERVER.is_file():
        raise BenchError(f"there is no {SERVER}, which serves the rows")
    folder = (options.work or cache_dir() / ("rl-real-quick" if options.quick else "rl-real")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stops the stage that is running, too
    torch.set_num_threads(os.cpu_count() or 1)
    started = time.monotonic()
    with hub_server(SERVER, folder) as endpoint:
        file, smaller = (QUICK, SMALLER) if options.quick else (PROFILE, {})
        chain = Chain(folder, file, smaller, endpoint, lambda text: print(text, flush=True))
        chain.prepare()
        found = Bench(chain, Answers(folder / "answers"), options.reward).run()
    results = {
        "bench": "rl-real",
        "quick": options.quick,
        "reward": options.reward,
        "passed": all(line.passed is not False for line in found),
        "lines": [line.to_json() for line in found],
        "seconds": round(time.monotonic() - started, 1),
        "seconds_of_parts": chain.seconds,
        "machine": machine(),
    }
    text = json.dumps(results)
    (folder / "results.json").write_text(text + "\n")
    print(text, flush=True)
    return int(any(line.reason for line in found))


class Bench:
    """The lines, in the order in which they can be measured."""

    def __init__(self, chain: Chain, answers: Answers, reward: str = "answer") -> None:
        self.chain, self.answers = chain, answers
        bonus = 0.1 if reward == "forced_letter" else 0.0  # that reward teaches no form
        self.paid = {"reward": {"kind": reward, "format_bonus": bonus}}
        self.letters = Questions("aqua", chain.made, chain.profile())
        self.sft = chain.made["sft_checkpoint"]
        self.rewarded: Artifact | None = None
        """RL on the fixed questions."""
        self.lines: list[Line] = []

    def run(self) -> list[Line]:
        """Measures and prints all lines."""
        self.few = self.letters.split("train", limit=FIXED)
        self.held_out = self.letters.split("validation", "test")
        self._say(at_least("form", f"SFT's answers to validation questions can be read, {lines.FORM:.0%} or more",
                           self._form(self.sft, self.letters.split("validation")), lines.FORM))  # fmt: skip
        self._say(not_below_chance("c1", "SFT on held-out questions in all orders is not below a fifth",
                                   self._held_out(self.sft), lines.CHANCE))  # fmt: skip
        self._part(
            "few", self.paid, self._few, "a", f"RL on {FIXED} fixed questions lifts their mean reward to {lines.LIFTED}"
        )
        self._part("whole", self.paid, self._whole, "b", "RL on all questions keeps the form, and its accuracy")
        for control in ("random", "constant"):
            self._part(f"few_{control}", {}, self._control, f"d-{control}", f"a {control} reward does not raise it")
        self._numbers()
        self._part("few_distilled", {}, self._distilled, "distilled", f"self-distillation on the {FIXED} questions")
        return self.lines

    def _say(self, line: Line) -> None:
        self.lines.append(line)
        print(line, flush=True)

    def _part(
        self, variant: str, paid: dict[str, Any], lines_of: Callable[[str, Artifact], None], name: str, claim: str
    ) -> None:
        """Trains a variant and measures its lines; one that cannot be trained fails without ending the others."""
        try:
            trained = self.chain.make("rl_checkpoint", variant, VARIANTS[variant] | paid)
        except BenchError as e:
            self._say(lines.not_measured(name, claim, str(e)))
            return
        lines_of(name, trained)

    def _few(self, name: str, trained: Artifact) -> None:
        self.rewarded = trained
        claim = f"RL on {len(self.few)} fixed training questions lifts their mean reward to {lines.LIFTED} or more"
        self._say(rises(name, claim, self._reward(self.sft), self._reward(trained), lines.LIFTED))

    def _whole(self, name: str, trained: Artifact) -> None:
        before, after = (self._held_out(x, "parsed") for x in (self.sft, trained))
        self._say(does_not_fall(name, "RL's answers can be read as often as SFT's", before, after))
        before, after = self._held_out(self.sft), self._held_out(trained)
        self._say(does_not_fall("c2", "RL on held-out questions in all orders is not below SFT", before, after))

    def _control(self, name: str, trained: Artifact) -> None:
        kind = name.removeprefix("d-")
        self._say(does_not_rise(name, f"a {kind} reward on the same questions does not raise the real one",
                                self._reward(self.sft), self._reward(trained)))  # fmt: skip
        self._say(does_not_rise(f"{name}-held-out", f"nor does a {kind} reward raise held-out accuracy",
                                self._held_out(self.sft), self._held_out(trained)))  # fmt: skip

    def _distilled(self, name: str, trained: Artifact) -> None:
        for other, what in ((self.sft, "SFT"), (self.rewarded, "RL")):
            if other is None:
                continue
            self._say(measured(f"{name}-reward-{what}", f"{what} and self-distillation: reward on the same questions",
                               self._reward(other), self._reward(trained)))  # fmt: skip
            self._say(measured(f"{name}-held-out-{what}", f"{what} and self-distillation: held-out accuracy",
                               self._held_out(other), self._held_out(trained)))  # fmt: skip

    def _numbers(self) -> None:
        """Trains SFT and RL on numeric answers and measures their lines."""
        name, chain = "gsm8k", self.chain.branch(NUMBERS)
        try:
            sft = chain.made["sft_checkpoint"] = chain.make("sft_checkpoint", "sft_numbers")
            trained = chain.make("rl_checkpoint", "numbers")
        except BenchError as e:
            self._say(lines.not_measured(name, "RL on one-step problems, numeric answers", str(e)))
            return
        questions = Questions("one_step", chain.made, chain.profile())
        practised, new = questions.split("train", limit=FEWER), questions.split("validation")
        before, after = (self._sampled(x, questions, practised) for x in (sft, trained))
        self._say(
            rises(f"{name}-a", f"RL on {len(practised)} one-step problems raises their mean reward", before, after)
        )
        before, after = (self._sampled(x, questions, practised, "parsed") for x in (sft, trained))
        self._say(at_least(f"{name}-form", f"SFT's samples on them can be read, {lines.FORM:.0%} or more",
                           before, lines.FORM))  # fmt: skip
        self._say(does_not_fall(f"{name}-b", "RL's samples on them can be read as often", before, after))
        before, after = (self._sampled(x, questions, new) for x in (sft, trained))
        self._say(does_not_fall(f"{name}-c", "RL on held-out one-step problems is not below SFT", before, after))

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _reward(self, checkpoint: Artifact) -> Group:
        """The mean reward of samples on the fixed training questions."""
        return self._sampled(checkpoint, self.letters, self.few)

    def _sampled(
        self, checkpoint: Artifact, questions: Questions, examples: Sequence[Any], of: Any = "correct"
    ) -> Group:
        records = self.answers.sampled(checkpoint, questions, examples, SAMPLES)
        return Group(shares(records, of), len(records))

    def _held_out(self, checkpoint: Artifact, of: Of = "correct") -> Group:
        records = self.answers.rotated(checkpoint, self.letters, self.held_out)
        return Group(shares(records, of), len(records))

    def _form(self, checkpoint: Artifact, examples: Sequence[Any]) -> Group:
        records = self.answers.greedy(checkpoint, self.letters, examples)
        return Group(shares(records, "parsed"), len(records))
