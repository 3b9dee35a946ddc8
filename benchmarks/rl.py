"""The RL stage: how its time is divided, and samples per second.

Runs the stage of the profile in `AQUARAT_PROFILE` (default demo) as it stands, with its ranks, on the latest SFT
checkpoint of the store. Shares are of the stage's own loop, without loading and saving; what no phase claims is
bookkeeping. The goal is that of the demo.
"""

from __future__ import annotations

from aquarat_core.config import load_profile
from aquarat_core.rl.trainer import PHASES
from aquarat_core.runtime.scratch import scratch_folder
from benchmarks import rl_stage
from benchmarks.harness import Result


def run() -> list[Result]:
    """One whole run of the stage."""
    config = load_profile().rl_checkpoint
    with scratch_folder("bench") as scratch:
        summary = rl_stage.train(scratch / "run")
    seconds = summary["sampled_tokens"] / summary["sampled_tokens_per_second"]
    samples = config.steps * config.prompts_per_step * config.group_size
    return [
        Result("rollout_and_update", "%", (100 * (summary["rollout_share"] + summary["update_share"]),), goal="≥ 80 %"),
        *(Result(phase, "%", (100 * summary[f"{phase}_share"],)) for phase in PHASES),
        Result("samples", "samples/s", (samples / seconds,)),
        Result("tokens", "tokens/s", (summary["sampled_tokens_per_second"],)),
        Result("step", "s", (seconds / config.steps,)),
    ]
