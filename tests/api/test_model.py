"""What a loaded model says, compared with the network itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import aquarat_core as aq
from aquarat_core.rollout.random import row_key
from aquarat_core.tasks.aqua.question import prompt
from aquarat_core.text.chat import reading_text, render_prompt, stop_tokens
from tests.factories import calling_model, guesser, random_model, reading_questions, reading_tokenizer, tokenizer

QUESTION = prompt(reading_questions(1)[0])


@pytest.fixture(scope="module")
def model() -> aq.Model:
    return aq.Model(guesser(), reading_tokenizer())


@pytest.fixture(scope="module")
def random() -> aq.Model:
    return aq.Model(random_model(tokenizer().vocab_size, sequence_len=128), tokenizer())


@torch.no_grad()
def greedy(model: aq.Model, ids: list[int], n: int) -> list[int]:
    for _ in range(n):
        ids = [*ids, int(model.transformer(torch.tensor([ids]))[0, -1].argmax())]
    return ids[-n:]


def test_the_most_likely_continuation_is_that_of_the_network(random: aq.Model) -> None:
    bos = tokenizer().special("<|bos|>")
    first, second = random.generate(["12 + 30 =", "Zoe is"], max_new_tokens=20, special_tokens=True)
    for one, text in ((first, "12 + 30 ="), (second, "Zoe is")):
        expected = greedy(random, [bos, *tokenizer().encode(text)], 20)
        assert one.prompt == text and list(one.tokens) == expected[: len(one.tokens)]
        assert one.ended == (one.tokens[-1] in stop_tokens(tokenizer()))
        assert one.text == tokenizer().decode(one.tokens[: len(one.tokens) - one.ended])


def test_samples_follow_prompt_seed_and_number_alone(random: aq.Model) -> None:
    def drawn(prompt: str | list[str], **how) -> list[str]:
        return [one.text for one in random.generate(prompt, 12, 1.0, **how)]

    four = drawn("Say", samples=4)
    assert len(set(four)) == 4 and drawn("Say", samples=2) == four[:2] and drawn("Say", samples=4, seed=1) != four
    assert drawn(["Other", "Say"], samples=4)[4:] == four
    assert drawn("Say", samples=3, top_k=1) == [random.generate("Say", 12)[0].text] * 3


def test_logprobs_of_samples_are_those_of_their_distribution(random: aq.Model) -> None:
    (one,) = random.generate("Zoe is 6.", 10, temperature=1.0)
    again = random.logprobs("Zoe is 6.", tokenizer().decode(one.tokens))
    if again.tokens == one.tokens:  # decoding and encoding may cut other tokens
        assert again.logprobs == pytest.approx(one.logprobs, abs=1e-3)
    ids = [tokenizer().special("<|bos|>"), *tokenizer().encode("Zoe is 6."), *one.tokens]
    with torch.no_grad():
        logp = torch.log_softmax(random.transformer(torch.tensor([ids]))[0].double(), dim=-1)
    n = len(one.tokens)
    expected = logp[-n - 1 : -1][torch.arange(n), list(one.tokens)]
    assert one.logprobs == pytest.approx(expected.tolist(), abs=1e-3)


def test_logprobs_are_the_networks_own_in_nats(random: aq.Model) -> None:
    text = "Zoe is 6. Ann is 4 years older."
    ids = tokenizer().encode(text)
    with torch.no_grad():
        logits = random.transformer(torch.tensor([[tokenizer().special("<|bos|>"), *ids]]))[0, :-1].double()
    expected = torch.log_softmax(logits, dim=-1)[torch.arange(len(ids)), ids]
    whole = random.logprobs(text)
    assert list(whole.tokens) == ids and whole.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert whole.total == pytest.approx(math.fsum(expected.tolist()), abs=1e-3)
    split = random.logprobs("Zoe is 6.", " Ann is 4 years older.")
    assert split.tokens == tuple(tokenizer().encode(" Ann is 4 years older."))


def test_a_stop_text_is_cut_off(random: aq.Model) -> None:
    (whole,) = random.generate("12 + 30 =", 30)
    stop = whole.text[5:7]
    (stopped,) = random.generate("12 + 30 =", 30, stop=stop)
    assert stopped.text == whole.text.partition(stop)[0] and stopped.ended
    assert stopped.tokens == whole.tokens[: len(stopped.tokens)] and len(stopped.logprobs) == len(stopped.tokens)
    assert random.generate("12 + 30 =", 30, stop=["no such text", stop]) == [stopped]


def test_a_chat_is_an_answer_to_the_conversation(model: aq.Model) -> None:
    answer = model.chat(QUESTION, max_new_tokens=8)
    ids = render_prompt(reading_tokenizer(), [{"role": "user", "content": QUESTION}])
    expected = reading_tokenizer().decode(greedy(model, ids, 8))
    assert answer == expected.partition("<|assistant_end|>")[0] and answer.startswith("Answer: ")
    assert model.chat([{"role": "user", "content": QUESTION}]) == answer
    assert model.chat(QUESTION, stop=":") == "Answer"
    assert len({model.chat(QUESTION, temperature=1.0, seed=seed) for seed in range(12)}) > 1


def test_the_calculator_computes_what_the_model_calls() -> None:
    caller = aq.Model(calling_model(), tokenizer())
    output = tokenizer().special("<|output_start|>")
    how = {"max_new_tokens": 60, "temperature": 1.0, "samples": 4}
    computed = caller.generate("12", calculator=True, **how)
    forced = [one for one in computed if output in one.tokens]
    assert forced and all(one.logprobs[one.tokens.index(output)] == 0.0 for one in forced)


def test_special_tokens_and_calls_are_in_the_text_only_if_asked_for() -> None:
    caller = aq.Model(calling_model(), tokenizer())
    how = {"max_new_tokens": 60, "temperature": 1.0, "samples": 4}
    said, shown = (caller.generate("12", special_tokens=special, **how) for special in (False, True))
    assert [one.tokens for one in said] == [one.tokens for one in shown]
    assert any("<|python_start|>" in one.text for one in shown) and not any("<|" in one.text for one in said)
    for one, whole in zip(said, shown, strict=True):
        content = one.tokens[: len(one.tokens) - one.ended]
        assert whole.text == tokenizer().decode(content) and one.text == reading_text(tokenizer(), content)
    seeds = range(4)
    answers = [caller.chat("12", 60, 1.0, seed=seed) for seed in seeds]
    assert not any("<|" in answer for answer in answers)
    assert any("<|" in caller.chat("12", 60, 1.0, seed=seed, special_tokens=True) for seed in seeds)


def test_numbers_of_numpy_are_numbers(random: aq.Model) -> None:
    how = {"max_new_tokens": np.int64(5), "temperature": np.float32(1), "top_k": np.int32(9), "samples": np.uint8(2)}
    assert random.generate("Say", **how) == random.generate("Say", 5, 1.0, top_k=9, samples=2)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda m: m.generate("a", 0), "max_new_tokens is 0, but must be at least 1"),
        (lambda m: m.generate("a", samples=0), "samples is 0, but must be at least 1"),
        (lambda m: m.generate("a", temperature=-1.0), "temperature -1.0 is below 0"),
        (lambda m: m.generate("a b c " * 60), "sequence_len of 128: shorten the text or lower max_new_tokens$"),
        (lambda m: m.generate("a", temperature=math.nan), r"temperature nan must be 0 \(greedy\) or from"),
        (lambda m: m.generate("a", temperature=1e-300), r"temperature 1e-300 must be 0 \(greedy\) or from"),
        (lambda m: m.generate("a", temperature=10**400), "temperature is larger than any float"),
        (lambda m: m.generate("a", temperature="hot"), "temperature is of type str, but must be a number"),
        (lambda m: m.chat("a", temperature=None), "temperature is None, but must be a number"),
        (lambda m: m.generate(None), "prompt is None, but must be text"),
        (lambda m: m.generate([3]), r"prompt\[0\] is of type int, but must be text"),
        (lambda m: m.generate(b"ab"), "prompt is of type bytes, but must be text"),
        (lambda m: m.generate("a", samples=1.5), "samples is of type float, but must be a whole number"),
        (lambda m: m.generate("a", samples="2"), "samples is of type str, but must be a whole number"),
        (lambda m: m.generate("a", samples=True), "samples is of type bool, but must be a whole number"),
        (lambda m: m.generate("a", None), "max_new_tokens is None, but must be a whole number"),
        (lambda m: m.chat("a", 1.5), "max_new_tokens is of type float, but must be a whole number"),
        (lambda m: m.generate("a", top_k=1.5), "top_k is of type float, but must be a whole number"),
        (lambda m: m.generate("a", top_p="a"), "top_p is of type str, but must be a number"),
        (lambda m: m.generate("a", seed="a"), "seed is of type str, but must be a whole number"),
        (lambda m: m.generate("a", stop=None), "stop is None, but must be text"),
        (lambda m: m.generate("a", stop=[None]), r"stop\[0\] is None, but must be text"),
        (lambda m: m.generate("a", calculator="no"), "calculator is of type str, but must be True or False"),
        (lambda m: m.chat(None), "messages is None, but must be text"),
        (lambda m: m.chat(5), "messages is of type int, but must be text"),
        (lambda m: m.chat({"role": "user", "content": "a"}), "messages is of type dict, but must be text"),
        (
            lambda m: m.chat([{"role": "tool", "content": "a"}]),
            "message 0 has the unknown role 'tool': roles are system",
        ),
        (lambda m: m.chat([{"role": "system", "content": "a"}]), "only a system message: add a message of the user"),
        (lambda m: m.logprobs(None), "the text is None, but must be text"),
        (lambda m: m.logprobs("a", 5), "the continuation is of type int, but must be text"),
        (lambda m: m.generate("a", stop=""), "a stop text is empty"),
        (lambda m: m.generate("\ud800"), "is not Unicode text"),
        (lambda m: m.chat("\ud800"), "is not Unicode text"),
        (lambda m: m.chat("a b c " * 60), "leaves no room for an answer in the model's context of 128"),
        (lambda m: m.chat([]), "not a conversation to answer"),
        (lambda m: m.chat([{"role": "user", "content": "a"}] * 2), "user and assistant in turn"),
        (lambda m: m.chat([{"role": "user"}]), "message 0 is not a role and a content"),
        (lambda m: m.chat(["hi"]), "message 0 is not a role and a content"),
        (lambda m: m.logprobs(""), "no token to score"),
        (lambda m: m.logprobs("a", ""), "no token to score"),
        (lambda m: m.logprobs("a b c " * 60), "do not fit into the model's context of 128: shorten the text"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(random: aq.Model, call, complaint: str) -> None:
    with pytest.raises(aq.UserError, match=complaint):
        call(random)


def test_what_just_fits_is_scored(random: aq.Model) -> None:
    ids: list[int] = []
    text = ""
    while len(ids) < 128:
        text += " 7"
        ids = tokenizer().encode(text)
    assert len(ids) == 128
    assert len(random.logprobs(text).tokens) == 128
    with pytest.raises(aq.UserError):
        random.logprobs(text + " 7 7")


def test_a_stream_is_the_answer_of_chat_in_pieces(random: aq.Model) -> None:
    for how in ({}, {"temperature": 1.0, "seed": 3}, {"temperature": 1.0, "max_new_tokens": 7, "special_tokens": True}):
        pieces = list(random.stream("Zoe is 6.", **how))
        assert "".join(piece.text for piece in pieces) == random.chat("Zoe is 6.", **how)
    stop = random.chat("Zoe is 6.", max_new_tokens=20)[5:8]
    stopped = "".join(piece.text for piece in random.stream("Zoe is 6.", max_new_tokens=20, stop=stop))
    assert stop and stopped == random.chat("Zoe is 6.", max_new_tokens=20, stop=stop)


def test_a_stream_tells_the_calls_of_the_calculator() -> None:
    calling = aq.Model(calling_model(), tokenizer())
    calls = [
        call
        for seed in range(20)
        for piece in calling.stream("1 + 2", max_new_tokens=80, temperature=1.0, seed=seed, calculator=True)
        for call in piece.calls
    ]
    assert calls and any(call.result for call in calls)


def test_a_stream_refuses_before_its_first_piece(random: aq.Model) -> None:
    with pytest.raises(aq.UserError, match="do not fit"):
        random.stream("Zoe", max_new_tokens=1000)


def test_the_last_piece_says_how_the_answer_ended(random: aq.Model) -> None:
    message = "Zoe is 6."
    ids = render_prompt(random.tokenizer, [{"role": "user", "content": message}])
    found = set()
    for seed in range(12):
        key = row_key("generate", seed, message, 0)
        ((whole,),) = random.engine.generate([ids], [[key]], 60, 1.0)
        *pieces, last = random.stream(message, max_new_tokens=60, temperature=1.0, seed=seed)
        assert all(piece.ended is None for piece in pieces) and last.ended is whole.ended
        found.add(last.ended)
    assert found == {True, False}
