"""All of it on one checkpoint: on questions drawn by seed, and on random tokens said twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from aquarat_core.config.interpret import InterpretConfig
from aquarat_core.evaluation.interpret.attention import Attention, HeadMap, attention_by_head, head_map
from aquarat_core.evaluation.interpret.batch import draw, letter_context, open_context, shuffled
from aquarat_core.evaluation.interpret.induction import Induction, induction_scores, plain_tokens, repeated_sequences
from aquarat_core.evaluation.interpret.lens import Lens, letter_lens
from aquarat_core.evaluation.interpret.numbers import NotFiniteError
from aquarat_core.evaluation.letters import letter_ids
from aquarat_core.model.transformer import Transformer
from aquarat_core.tasks.task import Example, Task
from aquarat_core.text.tokenizer import Tokenizer, TokenizerError

Part = Literal["attention", "maps", "lens", "induction"]
T = TypeVar("T")


class Findings(TypedDict):
    """What is found, without the maps, which are large."""

    task: str
    settings: dict[str, Any]
    questions: list[str]
    """Ids of the questions looked at, in the order in which they were drawn."""
    left_out: int
    """Questions that were drawn and cannot be used: too long, or nothing to choose at the place of the answer."""
    position: Literal["before the letter", "before the reply"]
    """Where each question is cut off: the place that is meant by "at the answer"."""
    tokens_mean: float
    """Mean length of the contexts."""
    windows: list[int]
    """Tokens that each layer sees."""
    attention: Attention | None
    lens: Lens | None
    induction: Induction | None
    absent: dict[Part, str]
    """Why a part is not there."""


class Interpretability(Findings):
    """Content of an eval report's `interpretability.json`."""

    maps: list[HeadMap]


def interpret(
    model: Transformer, tokenizer: Tokenizer, task: Task[Any], examples: Sequence[Example[Any]], config: InterpretConfig
) -> Interpretability:
    """Looks into `model` on questions drawn from `examples`. What a task or a tokenizer rules out is left out, with
    the reason in `absent`; it never fails for them."""
    ids, why_no_letters = _letters(tokenizer, task)
    order, room = shuffled(examples, config.seed), model.config.sequence_len
    made = (letter_context(task, e, tokenizer, ids) if ids else open_context(e, tokenizer) for e in order)
    drawn = draw(made, config.questions, room)
    absent: dict[Part, str] = {}
    contexts, gold = [c.ids for c in drawn.contexts], [c.gold for c in drawn.contexts]
    if not contexts:
        reason = f"none of the {len(examples):,} questions can be used at a context of {room} tokens"
        absent |= {"attention": reason, "maps": reason, "lens": reason}
    if why_no_letters:
        absent["lens"] = why_no_letters
    if not config.maps:
        absent.setdefault("maps", "eval_report.interpret.maps is 0")

    def part(name: Part, make: Callable[[], T]) -> T | None:
        if name in absent:
            return None
        try:
            return make()
        except NotFiniteError as e:
            absent[name] = str(e)
            return None

    return Interpretability(
        task=task.name,
        settings=config.model_dump(exclude={"of"}),
        questions=[c.id for c in drawn.contexts],
        left_out=drawn.left_out,
        position="before the letter" if ids else "before the reply",
        tokens_mean=round(sum(map(len, contexts)) / max(1, len(contexts)), 1),
        windows=list(model.config.windows),
        attention=part("attention", lambda: attention_by_head(model, contexts)),
        lens=part("lens", lambda: letter_lens(model, contexts, gold, task.categories, ids)),
        induction=part("induction", lambda: _induction(model, tokenizer, config)),
        maps=part("maps", lambda: [head_map(model, tokenizer, c) for c in drawn.contexts[: config.maps]]) or [],
        absent=absent,
    )


def findings(result: Interpretability) -> Findings:
    """`result` without its maps."""
    without: dict[str, Any] = {key: value for key, value in result.items() if key != "maps"}
    return Findings(**without)


def write(path: Path, result: Interpretability) -> None:
    """`result` as JSON; equal results give equal bytes."""
    text = json.dumps(result, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _letters(tokenizer: Tokenizer, task: Task[Any]) -> tuple[list[int], str | None]:
    """The ids of the task's letters, or none and the reason."""
    if not task.categories:
        return [], "answers to this task are open: there are no letters to choose from"
    try:
        return letter_ids(tokenizer, task), None
    except TokenizerError as e:
        return [], str(e)


def _induction(model: Transformer, tokenizer: Tokenizer, config: InterpretConfig) -> Induction:
    plain = plain_tokens(tokenizer)
    n = min(config.repeated_tokens, (model.config.sequence_len - 1) // 2, len(plain))
    bos = tokenizer.special("<|bos|>")
    return induction_scores(model, repeated_sequences(plain, bos, config.sequences, n, config.seed))
