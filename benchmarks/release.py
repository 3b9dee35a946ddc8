"""Releases for transformers: logits, greedy text, conversations and texts against ours; seconds and memory of a GiB.

Each model is written as a release, loaded from it by transformers, and given 50 prompts, of which the longer ones are
longer than any short window. Models: the newest `rl_checkpoint` of the store that `AQUARAT_STORE` names, nanochat's own
checkpoints where `tests/exchange/golden` has them, and three with random weights: the basic form, and two that have
every option between them. The tokenizer of the random models has 4,096 ids, learned from a part of Python's own
sources; the mixed text is half sources and half characters of all planes of Unicode.

What exporting takes is measured in a process of its own on a model with 1 GiB of float32 weights, and compared with
`shutil.copyfile` of a file of 1 GiB, in turn.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import ModelConfig, TokenizerConfig
from aquarat_core.errors import UserError
from aquarat_core.exchange.huggingface import write_huggingface
from aquarat_core.model.checkpoint import load_checkpoint
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.engine import Engine
from aquarat_core.settings import REPO_ROOT, store_uri
from aquarat_core.text.chat import render, stop_tokens
from aquarat_core.text.tokenizer import Tokenizer, train_tokenizer
from benchmarks.corpus import sources
from benchmarks.harness import Against, Result, run_apart, unmeasured
from tests.exchange.huggingface.examples import conversations, keep_code_in, load_model, load_tokenizer

DEMO = "rl_checkpoint"
GOLDEN = REPO_ROOT / "tests/exchange/golden"
PROMPTS = 50
NEW_TOKENS = 32
CONVERSATIONS = 200
TEXT_BYTES = 1_000_000
VOCABULARY = 4_096
CLASSIC = {"depth": 4, "width_per_layer": 64, "head_size": 64, "sequence_len": 512, "qk_scale": 1.0}
MODERN = {
    "depth": 6, "width": 192, "head_size": 32, "n_kv_head": 2, "sequence_len": 512, "window_pattern": "SSL",
    "short_window": 100, "value_embeddings": True, "residual_lambdas": True, "backout": True,
}  # fmt: skip
RANDOM = {"classic": CLASSIC, "taps": MODERN | {"embedding_taps": 3}, "smear": MODERN | {"smear": True}}
"""Taps and smear exclude each other, so that it takes two models to have every option."""
GOALS = {"logits": "≤ 0.0001 logits", "tokens": "≤ 0 tokens", "ids": "≤ 0 ids", "text": "≤ 0 bytes"}
Model = tuple[Transformer, Tokenizer]


def run() -> list[Result]:
    torch.set_num_threads(1)  # the models are small, and how long they take is not measured
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="aquarat-bench-release-") as scratch:
        keep_code_in(Path(scratch))
        return [*_answers(), *_export()]


def _answers() -> list[Result]:
    tokenizer = train_tokenizer(sources(2_000_000), TokenizerConfig(vocab_size=VOCABULARY))
    results: list[Result] = []
    for name, model in (("demo", _demo()), *_golden().items()):
        results += [_absent(name, model)] if isinstance(model, str) else _same(name, *model)
    for name, options in RANDOM.items():
        results += _same(f"random/{name}", random_weights(tokenizer.vocab_size, options), tokenizer)
    return [*results, _text(tokenizer)]


# --- models ---------------------------------------------------------------------------------------------------------


def _demo() -> Model | str:
    """The checkpoint, or why there is none."""
    try:
        artifact = ArtifactStore.open(store_uri()).resolve(DEMO)
        return load_checkpoint(artifact.directory(), torch.device("cpu"), torch.float32)
    except UserError as e:
        return f"no {DEMO} in {store_uri()}: {e}"


def _golden() -> dict[str, Model | str]:
    """nanochat's own checkpoints by folder, or why there are none."""
    if not GOLDEN.is_dir():
        return {"golden": f"{GOLDEN.relative_to(REPO_ROOT)} is missing"}
    from aquarat_core.exchange.opening import open_folder

    folders = sorted({path.parent for path in GOLDEN.rglob("model_*.pt")})
    opened = {f"golden/{folder.relative_to(GOLDEN)}": open_folder(folder) for folder in folders}
    found: dict[str, Model | str] = {name: (one.model, one.tokenizer) for name, one in opened.items()}
    return found or {"golden": f"{GOLDEN.relative_to(REPO_ROOT)} holds no checkpoint"}


@torch.no_grad()
def random_weights(vocab_size: int, options: dict[str, Any]) -> Transformer:
    """A model in which every weight matters and logits are far apart; always the same."""
    model, generator = Transformer(ModelConfig(**options), vocab_size), torch.Generator().manual_seed(0)
    model.init_weights(generator)
    for name, parameter in model.named_parameters():
        if name.endswith(("attention.out.weight", "mlp.down.weight")):
            parameter.normal_(0.0, 0.05, generator=generator)
        elif "gate" in name or name in ("smear_lambda", "backout_lambda"):
            parameter.normal_(0.0, 0.5, generator=generator)
    model.head.weight.normal_(0.0, 0.2, generator=generator)
    return model


# --- the same answers -----------------------------------------------------------------------------------------------


def _absent(name: str, reason: str) -> Result:
    return unmeasured(f"{name}/max |logit difference|", "logits", reason, GOALS["logits"])


def _same(name: str, model: Transformer, tokenizer: Tokenizer) -> list[Result]:
    """The model through transformers against ourselves."""
    with tempfile.TemporaryDirectory(prefix="aquarat-bench-release-") as scratch:
        folder = Path(scratch) / "release"
        written = write_huggingface(folder, model, tokenizer, NEW_TOKENS)
        theirs = load_model(folder, written.remote_code)
        asked = _prompts(model, tokenizer)
        logits = max(_difference(model, theirs, ids) for ids in asked)
        return [
            Result(f"{name}/max |logit difference|", "logits", (logits,), goal=GOALS["logits"]),
            Result(f"{name}/greedy tokens that differ", "tokens", (_other_tokens(model, theirs, tokenizer, asked),),
                   goal=GOALS["tokens"]),
            Result(f"{name}/ids of {CONVERSATIONS} conversations that differ", "ids",
                   (_other_ids(load_tokenizer(folder, written.remote_code), tokenizer),), goal=GOALS["ids"]),
        ]  # fmt: skip


def _prompts(model: Transformer, tokenizer: Tokenizer) -> list[list[int]]:
    """Beginnings of sources as ids, of 1 token up to all that leave room for an answer."""
    room = model.config.sequence_len - NEW_TOKENS
    lengths = [1 + (room - 1) * i // (PROMPTS - 1) for i in range(PROMPTS)]
    texts = [text for text in sources(4_000_000) if len(text) > 10 * room]
    bos = tokenizer.special("<|bos|>")
    return [[bos, *tokenizer.encode(texts[i % len(texts)][i:][: 10 * n])][:n] for i, n in enumerate(lengths)]


@torch.no_grad()
def _difference(model: Transformer, theirs: Any, ids: list[int]) -> float:
    given = torch.tensor([ids])
    return (model(given) - theirs(given).logits).abs().max().item()


def _other_tokens(model: Transformer, theirs: Any, tokenizer: Tokenizer, asked: list[list[int]]) -> float:
    ours = Engine(model, stop_tokens(tokenizer)).generate(asked, [[0]] * len(asked), NEW_TOKENS, temperature=0.0)
    different = 0
    for ids, (completion,) in zip(asked, ours, strict=True):
        new = theirs.generate(torch.tensor([ids]))[0, len(ids) :].tolist()
        pairs = zip(new, completion.tokens, strict=False)
        different += sum(a != b for a, b in pairs) + abs(len(new) - len(completion.tokens))
    return float(different)


def _other_ids(theirs: Any, tokenizer: Tokenizer) -> float:
    different = 0
    for messages in conversations(CONVERSATIONS):
        ours, _ = render(tokenizer, messages)
        ids = theirs.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        different += sum(a != b for a, b in zip(ours, ids, strict=False)) + abs(len(ours) - len(ids))
    return float(different)


def _text(tokenizer: Tokenizer) -> Result:
    """Bytes of the documents whose ids are not ours."""
    with tempfile.TemporaryDirectory(prefix="aquarat-bench-release-") as scratch:
        write_huggingface(Path(scratch), random_weights(tokenizer.vocab_size, CLASSIC), tokenizer, NEW_TOKENS)
        theirs = load_tokenizer(Path(scratch), False)
    documents = mixed_text()
    size = sum(len(text.encode()) for text in documents)
    bos = tokenizer.special("<|bos|>")
    other = [text for text in documents if theirs(text)["input_ids"] != [bos, *tokenizer.encode(text)]]
    different = float(sum(len(text.encode()) for text in other))
    return Result(f"{size:,} bytes of mixed text, encoded otherwise", "bytes", (different,), goal=GOALS["text"])


def mixed_text() -> list[str]:
    """Documents of together about `TEXT_BYTES`: sources, and random characters between words, digits and spaces."""
    rng, documents, size = random.Random(0), [], 0
    parts = [" the", "don't", "1234567", " 12", "\n", "  ", "\r\n", "\t", "...", "é", "漢字", "🙂", "\u00a0", "\u0301"]
    for text in sources(TEXT_BYTES // 2):
        for start in range(0, len(text), 2_000):
            documents.append(text[start : start + 2_000])
            size += len(documents[-1].encode())
    while size < TEXT_BYTES:
        planes = (0x80, 0x3000, 0xD7FF, 0x1FFFF, 0x10FFFF)
        odd = [chr(rng.randrange(planes[i % 5])) for i in range(300)]
        odd = [c for c in odd if not 0xD800 <= ord(c) < 0xE000]
        documents.append("".join(rng.choice([rng.choice(odd), rng.choice(parts)]) for _ in range(1_000)))
        size += len(documents[-1].encode())
    return documents


# --- a large model --------------------------------------------------------------------------------------------------


def _export() -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="aquarat-bench-release-") as scratch:
        found = run_apart("benchmarks.release_worker", {}, Path(scratch))
    ours, copies = found["seconds"], found["copy_seconds"]
    ratios = sorted(a / b for a, b in zip(ours, copies, strict=True))
    baseline = Against("shutil.copyfile of 1 GiB", sorted(copies)[len(copies) // 2])
    return [
        Result("export of 1 GiB", "s", tuple(ours), baseline, ratios[len(ratios) // 2], "≤ 1.5"),
        Result("export of 1 GiB, memory above the model", "MiB", tuple(found["peak_mib"]), goal="≤ 300 MiB"),
    ]
