"""The model that lm-evaluation-harness asks: its interface on one side, `Answerer` on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

from aquarat_core.conversation import Message
from aquarat_core.errors import UsageError
from aquarat_core.evaluation.harness.answering import Answerer, Pair, Writing

Question = tuple[str, int]
"""A task's name and the number of one of its rows."""
Progress = Callable[[int, int, str], None]
"""Is called with what is done, of how much, and what it is."""


def lm_eval(module: str) -> Any:
    """A module of lm-evaluation-harness. Raises `UsageError` where it is not installed."""
    try:
        return import_module(f"lm_eval.{module}")
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] != "lm_eval":
            raise
        raise UsageError(
            "lm-evaluation-harness is not installed. In a checkout, ./run setup --harness installs it; elsewhere, "
            "pip install 'aquarat[eval]'"
        ) from None


def adapter(answerer: Answerer, progress: Progress) -> Any:
    """A `TemplateLM` of lm-evaluation-harness that answers by `answerer`.

    Its attributes `cropped` and `truncated` are the questions whose prompts lost their beginning, and whose answers the
    token limit ended. Raises `UsageError` where that program is not installed.
    """
    base: Any = lm_eval("api.model").TemplateLM
    utils, normalize = lm_eval("utils"), lm_eval("models.utils").normalize_gen_kwargs
    text, room = answerer.text, answerer.subject.sequence_len

    class Adapter(base):
        def __init__(self) -> None:
            base.__init__(self)
            self.cropped: set[Question] = set()
            self.truncated: set[Question] = set()
            self._too_long: list[bool] = []

        @property
        def eot_token_id(self) -> int:
            return answerer.end

        @property
        def prefix_token_id(self) -> int:
            return text.bos

        @property
        def max_length(self) -> int:
            return room

        @property
        def tokenizer_name(self) -> str:
            return f"aquarat-{answerer.subject.tokenizer.sha256}"

        def chat_template(self, chat_template: bool | str = False) -> str:
            return "aquarat" if chat_template else ""

        def apply_chat_template(self, chat_history: Sequence[Message], add_generation_prompt: bool = True) -> str:
            return text.render(chat_history, add_generation_prompt)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return text.encode(string, bos=add_special_tokens is not False)

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            found = base.loglikelihood(self, requests, disable_tqdm=True)
            self.cropped |= {_question(r) for r, cut in zip(requests, self._too_long, strict=True) if cut}
            return found

        def _loglikelihood_tokens(
            self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
        ) -> list[tuple[float, bool]]:
            # A continuation that merges with the context's last token has none of its own.
            pairs: list[Pair] = [(c, x or text.encode(both[1], bos=False)) for both, c, x in requests]
            self._too_long = [answerer.is_cropped(pair) for pair in pairs]
            found = answerer.likelihoods(pairs, _told(progress, len(pairs), "continuations"))
            return [(one.logprob, one.is_greedy) for one in found]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
            owners: list[int] = []
            pairs: list[Pair] = []
            for i, request in enumerate(requests):
                ids = text.encode(request.args[0], bos=False)
                for window in utils.get_rolling_token_windows(ids, text.bos, room - 1, 1):
                    pairs.append(utils.make_disjoint_window(window))
                    owners.append(i)
            sums = [0.0] * len(requests)
            found = answerer.likelihoods(pairs, _told(progress, len(pairs), "windows"))
            for owner, likelihood in zip(owners, found, strict=True):
                sums[owner] += likelihood.logprob
            return sums

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
            prompts = [text.encode(r.args[0]) for r in requests]
            how = [_writing(normalize(r.args[1])) for r in requests]
            found = answerer.write(prompts, how, _told(progress, len(prompts), "answers"))
            self.cropped |= {_question(r) for r, one in zip(requests, found, strict=True) if one.cropped}
            self.truncated |= {_question(r) for r, one in zip(requests, found, strict=True) if one.truncated}
            return [one.text for one in found]

    return Adapter()


def _question(request: Any) -> Question:
    return request.task_name, request.doc_id


def _told(progress: Progress, total: int, what: str) -> Callable[[int], None]:
    return lambda done: progress(done, total, f"lm-eval: {what}")


def _writing(arguments: Mapping[str, Any]) -> Writing:
    """From that program's arguments of a generation, in its own normal form."""
    temperature = float(arguments.get("temperature", 0.0)) if arguments["do_sample"] else 0.0
    sampled = temperature > 0
    until = cast("Sequence[str | None]", arguments["until"])
    return Writing(
        until=tuple(stop for stop in until if stop),
        max_new_tokens=arguments["max_gen_toks"],
        temperature=temperature,
        top_k=arguments.get("top_k") if sampled else None,
        top_p=arguments.get("top_p") if sampled else None,
    )
