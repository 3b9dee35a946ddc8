"""RL: the SFT policy learns from the verified answers to the training questions."""

from __future__ import annotations

from aquarat_core.config import RLConfig
from aquarat_core.rl.reward import judge
from aquarat_core.rl.trainer import Trainer
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.tasks.aqua import Question, permute, read_questions, target
from aquarat_core.text.tokenizer import TOKENIZER_FILE
from aquarat_core.training.checkpoint import load_checkpoint, save_checkpoint
from aquarat_core.training.distributed import distributed_world
from aquarat_core.training.metrics import metric_log


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Train the policy of `sft_checkpoint` on the training questions of `aqua_dataset`."""
    config: RLConfig = ctx.config
    sft, aqua = ctx.inputs["sft_checkpoint"], ctx.inputs["aqua_dataset"]
    questions = read_questions(aqua.path("train.parquet"))[: config.limit]
    held_out = [permute(q, config.seed) for q in read_questions(aqua.path("validation.parquet"))]
    check_reward(questions[:1000])
    with distributed_world(config.launch) as world, metric_log(ctx, config.wandb) as log:
        policy, tokenizer = load_checkpoint(sft.directory(), world.device, world.compute_dtype)
        trainer = Trainer(policy, tokenizer, config, world)
        summary = trainer.run(questions, held_out[: config.eval_questions], ctx, log)
        if ctx.rank == 0:
            save_checkpoint(ctx.outdir, policy, sft.path(TOKENIZER_FILE))
    return {**summary, "questions": len(questions), "ranks": world.size}


def check_reward(questions: list[Question]) -> None:
    """The reward must pay the gold answer and nothing for another letter, before any of it is trained on."""
    for q in questions:
        gold = judge(target(q), True, q.correct).reward
        other = judge(target(q), True, "A" if q.correct != "A" else "B").reward
        assert (gold, other) == (1.0, 0.0), f"the reward misjudges the gold answer of question {q.id}: {gold}, {other}"
