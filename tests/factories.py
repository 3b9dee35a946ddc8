"""Small real models, tokenizers and questions that the tests of the training core share; one CPU thread for all."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from aquarat_core.config import ModelConfig, TokenizerConfig, TrainConfig
from aquarat_core.data.rows import PackedRows
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.stages.base import StageContext
from aquarat_core.tasks.aqua.question import LETTERS, Question, conversation, prompt, target
from aquarat_core.tasks.aqua.synthetic import generate_questions
from aquarat_core.tasks.aqua.task import AquaTask, to_example
from aquarat_core.tasks.task import Example, Grade
from aquarat_core.text.chat import render
from aquarat_core.text.tokenizer import Tokenizer, train_tokenizer
from aquarat_core.tracking.context import RunContext
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.training.loop import train
from aquarat_core.training.session import SessionConfig, TrainingSession
from benchmarks.in_memory import pack_conversations

C = TypeVar("C", bound=SessionConfig)

torch.set_num_threads(1)

CPU = torch.device("cpu")
ONE = World(0, 1, CPU, torch.float32)
AQUA = AquaTask()


def random_model(vocab_size: int = 100, seed: int = 0, dtype: torch.dtype = torch.float32, **config) -> Transformer:
    """A model 32 wide whose every weight matters: what starts at zero is random too, and the logits are far apart."""
    described = ModelConfig(**{"depth": 2, "width_per_layer": 16, "head_size": 8, "sequence_len": 64} | config)
    model = Transformer(described, vocab_size, dtype)
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.out.weight.normal_(0.0, 0.2, generator=generator)
            block.mlp.down.weight.normal_(0.0, 0.05, generator=generator)
        model.head.weight.normal_(0.0, 0.3, generator=generator)
        for name, parameter in model.named_parameters():
            if "gate" in name or name in ("smear_lambda", "backout_lambda"):
                parameter.normal_(0.0, 0.5, generator=generator)
    return model


def random_ids(*shape: int, vocab_size: int = 100, seed: int = 1) -> torch.Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def context(folder: Path) -> StageContext:
    """A stage context for code that only reports its progress."""
    return StageContext(spec=None, config=None, inputs={}, outdir=folder, extras_dir=folder)


def session(config: C, ctx: RunContext, log: MetricLog | None = None, world: World = ONE) -> TrainingSession[C]:
    """A session without torchrun, that writes no metrics unless it is given a log."""
    return TrainingSession(ctx, config, world, log or MetricLog(None, None))


@functools.cache
def questions() -> tuple[Question, ...]:
    return tuple(generate_questions(60, seed=1, max_level=2))


@functools.cache
def examples() -> tuple[Example[Question], ...]:
    return tuple(map(to_example, questions()))


def odd_lengths(example: Example[Question], completion: str, ended: bool) -> Grade:
    """A reward that random text can earn: one for an odd number of characters."""
    del ended
    return Grade(float(len(completion) % 2), True, example.reference)


@functools.cache
def tokenizer() -> Tokenizer:
    """Trained on synthetic questions."""
    return train_tokenizer((f"{prompt(q)}\n{target(q)}" for q in questions()), TokenizerConfig(vocab_size=400))


def calling_model() -> Transformer:
    """A policy of `tokenizer` whose random text is full of calls of the calculator, well formed and not."""
    tok = tokenizer()
    model = random_model(tok.vocab_size, sequence_len=256)
    calls = [tok.special("<|python_start|>"), tok.special("<|python_end|>")]
    with torch.no_grad():
        # Logits have no bias: what the hidden states of a text have in common makes tokens likely everywhere.
        common = model.hidden(torch.tensor([tok.encode(prompt(questions()[0]))]))[0].mean(dim=0)
        common /= common.square().sum()
        model.head.weight *= 0.3
        model.head.weight[calls] += 10 * common
        model.head.weight[[tok.encode(x)[0] for x in "12345+*"]] += 8 * common
    return model


# --- a task that a tiny policy can learn from its reward alone: the letter to say stands in the question ------------


def reading_questions(n: int, first: int = 0) -> list[Question]:
    """Question i says which letter to answer. Its last option keeps the options in their order."""
    options = ("1", "2", "3", "4", "none of the above")
    letters = [LETTERS[i % 5] for i in range(first, first + n)]
    return [Question(f"r{first + i}", f"Say{f' {x}' * 16}", options, "", x, "reading") for i, x in enumerate(letters)]


def reading_examples(n: int, first: int = 0) -> list[Example[Question]]:
    return [to_example(q) for q in reading_questions(n, first)]


@functools.cache
def reading_tokenizer() -> Tokenizer:
    texts = [f"{prompt(q)}\n{target(q)}" for q in reading_questions(50)]
    return train_tokenizer(iter(texts), TokenizerConfig(vocab_size=340))


@functools.cache
def guesser() -> Transformer:
    """A policy that has learned to answer in form, with a letter drawn at random: a fifth of its answers are right."""
    tok = reading_tokenizer()
    rng = np.random.default_rng(0)
    asked = reading_questions(600)
    said = [Question(q.id, q.question, q.options, "", LETTERS[rng.integers(5)]) for q in asked]
    packed = pack_conversations((render(tok, conversation(q)) for q in said), 96, tok.special("<|bos|>"), 340)
    rows = PackedRows(packed.ids, packed.mask.astype(bool))
    config = TrainConfig(steps=40, batch_tokens=96 * 8, micro_batch_rows=8, eval_every=1000, eval_tokens=96)
    model = Transformer(ModelConfig(depth=2, width_per_layer=16, head_size=16, sequence_len=96), tok.vocab_size)
    model.init_weights(torch.Generator().manual_seed(0))
    train(session(config, context(Path())), model, rows, rows, tok.token_bytes())
    return model
