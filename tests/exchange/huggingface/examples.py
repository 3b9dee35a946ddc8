"""Models with each option, conversations of every kind, and how a release is loaded: for tests and `./run bench`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from aquarat_core.conversation import (
    Message,
    assistant_message,
    call_parts,
    parts_text,
    text_part,
    user_message,
)
from aquarat_core.tasks.aqua.question import conversation
from aquarat_core.tasks.aqua.synthetic import generate_questions

PLAIN = {"depth": 3, "qk_scale": 1.0, "sequence_len": 256}
GROUPED = {"n_kv_head": 2, "rope_base": 50_000.0, "softcap": 12.0}
EVERYTHING = {
    "depth": 5,
    "width": 40,
    "n_kv_head": 1,
    "sequence_len": 256,
    "window_pattern": "SSL",
    "short_window": 16,
    "value_embeddings": True,
    "residual_lambdas": True,
    "backout": True,
    "qk_scale": 1.2,
}
NATIVE: dict[str, dict[str, Any]] = {"classic": PLAIN, "grouped": PLAIN | GROUPED, "one layer": PLAIN | {"depth": 1}}
"""Models that transformers' own class computes."""
REMOTE: dict[str, dict[str, Any]] = {
    "qk_scale": PLAIN | {"qk_scale": 1.2},
    "taps": PLAIN | {"embedding_taps": 3},
    "windows": PLAIN | GROUPED | {"window_pattern": "SL", "short_window": 16},
    "value embeddings": PLAIN | GROUPED | {"value_embeddings": True},
    "lambdas": PLAIN | {"residual_lambdas": True},
    "smear": PLAIN | {"smear": True},
    "backout": PLAIN | {"backout": True},
    "everything with taps": EVERYTHING | {"embedding_taps": 2},
    "everything with smear": EVERYTHING | {"smear": True},
}
"""Models that need the class that a release carries; a short window is 16 tokens."""


def keep_code_in(folder: Path) -> None:
    """Where transformers puts the copies that it makes of releases' code, from now on."""
    import transformers.dynamic_module_utils

    transformers.dynamic_module_utils.HF_MODULES_CACHE = str(folder)


def load_model(folder: Path, remote: bool, **how: Any) -> Any:
    """The model in `folder` as transformers loads it. Fails if a tensor is missing, unexpected or of another shape."""
    import transformers

    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=remote, local_files_only=True, output_loading_info=True, **how
    )
    assert not any(report.values()), report
    return model.eval()


def load_tokenizer(folder: Path, remote: bool) -> Any:
    """The tokenizer in `folder` as transformers loads it: after the config, and so after the code that this names."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=remote, local_files_only=True)


def conversations(n: int) -> list[list[Message]]:
    """One question, several in turn, with and without a system message, with calls of a tool, and with odd texts."""
    rng = random.Random(0)
    questions = list(generate_questions(n, seed=3, max_level=2))
    odd = [
        "",
        " ",
        "\n\n",
        "é漢🙂 naïve",
        "  two  spaces ",
        "a<|b|>c",
        "'ll DON'T",
        "123456,789.0",
        "\t\r\n",
        "<|bos",
        "}}{%",
    ]
    made: list[list[Message]] = []
    for i in range(n):
        messages = [m for q in rng.sample(questions, 1 + i % 3) for m in conversation(q)]
        if i % 4 == 1:
            messages.insert(0, {"role": "system", "content": rng.choice(["Be brief.", *odd])})
        if i % 4 == 2:
            parts = [text_part(rng.choice(odd)), *call_parts("48/2", "24"), *call_parts("1+1", "2")]
            parts += [text_part(rng.choice(odd))] if i % 8 == 2 else []
            messages += [user_message(rng.choice(odd)), assistant_message(parts_text(parts), parts)]
        if i % 4 == 3:
            messages += [user_message(rng.choice(odd)), assistant_message(rng.choice(odd))]
        made.append(messages)
    return made
