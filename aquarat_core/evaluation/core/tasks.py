"""The 22 tasks of CORE, and the accuracy that counts as zero in each."""

from __future__ import annotations

from collections.abc import Mapping

BASELINES_VERSION = "v2"
BASELINES: Mapping[str, float] = {
    "hellaswag_zeroshot": 25,
    "jeopardy": 0,
    "bigbench_qa_wikidata": 0,
    "arc_easy": 25,
    "arc_challenge": 25,
    "copa": 50,
    "commonsense_qa": 40.3,
    "piqa": 50,
    "openbook_qa": 25,
    "lambada_openai": 0,
    "hellaswag": 25,
    "winograd": 50,
    "winogrande": 50,
    "bigbench_dyck_languages": 0,
    "agi_eval_lsat_ar": 25,
    "bigbench_cs_algorithms": 0,
    "bigbench_operators": 0,
    "bigbench_repeat_copy_logic": 0,
    "squad": 0,
    "coqa": 0,
    "boolq": 62,
    "bigbench_language_identification": 25,
}
"""The accuracy in percent that a task is centered on, by task, in the order of the published list. Most of them are
what guessing reaches. Those of commonsense_qa and boolq are how often the commonest answer is right in the published
bundle, of four and of two options.

These are the values after DataComp-LM's correction of 2025-09-05 ("v2"). Before it, commonsense_qa had 20,
agi_eval_lsat_ar 20 and bigbench_language_identification 9.1, which gave models with 7 billion parameters a CORE one to
two and a half points higher."""


def centered(accuracy: float, baseline: float) -> float:
    """Accuracy in [0, 1] so that `baseline` percent is 0 and a perfect score stays 1."""
    return (accuracy - baseline / 100) / (1 - baseline / 100)
