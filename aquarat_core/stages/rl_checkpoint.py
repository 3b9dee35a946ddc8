"""RL: the SFT policy learns from the verified answers to the training questions."""

from __future__ import annotations

from aquarat_core.config import RLConfig
from aquarat_core.errors import StageError
from aquarat_core.evaluation.protocols import fitting
from aquarat_core.model.checkpoint import load_checkpoint, save_checkpoint
from aquarat_core.rl.preflight import check_reward
from aquarat_core.rl.trainer import Trainer
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.tasks.registry import load_task
from aquarat_core.text.tokenizer import TOKENIZER_FILE
from aquarat_core.training.session import training_session

REWARD_CHECKED_ON = 1000
"""Training questions that the reward is tried on before the first step."""


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Train the policy of `sft_checkpoint` on the training questions of `aqua_dataset`."""
    config: RLConfig = ctx.config
    sft, dataset = ctx.inputs["sft_checkpoint"], ctx.inputs["aqua_dataset"]
    task = load_task("aqua")
    questions = task.examples(dataset.path, "train")[: config.limit]
    held_out = [task.shown(e, config.seed) for e in task.examples(dataset.path, "validation")]
    with training_session(ctx, config) as session:
        world = session.world
        policy, tokenizer = load_checkpoint(sft.directory(), world.device, world.compute_dtype)
        there = len(questions)
        questions, asked = (
            fitting(some, tokenizer, config.max_new_tokens, policy.config.sequence_len)
            for some in (questions, held_out)
        )
        left_out = {
            "questions_left_out": there - len(questions),
            "held_out_questions_left_out": len(held_out) - len(asked),
        }
        if any(left_out.values()):
            ctx.log(
                f"{left_out['questions_left_out']} of {there} training questions and "
                f"{left_out['held_out_questions_left_out']} of {len(held_out)} held-out ones leave no room for "
                f"rl_checkpoint.max_new_tokens {config.max_new_tokens} "
                "in the policy's context: they are left out"
            )
        if len(questions) < config.prompts_per_step or not asked:
            raise StageError(
                f"only {len(questions)} training and {len(asked)} held-out questions leave room for "
                f"rl_checkpoint.max_new_tokens {config.max_new_tokens}, and a step needs {config.prompts_per_step}: "
                "lower max_new_tokens, or train with a longer base_checkpoint.model.sequence_len"
            )
        check_reward(task, questions[:REWARD_CHECKED_ON], tokenizer, seed=config.seed)
        trainer = Trainer(policy, tokenizer, config, world, task, questions, asked[: config.eval_questions])
        summary = trainer.run(session)
        if ctx.rank == 0:
            save_checkpoint(ctx.outdir, policy, sft.path(TOKENIZER_FILE))
    return {**summary, "questions": len(questions), **left_out, "ranks": world.size}
