"""What lm-evaluation-harness asks is answered like one plain forward pass; that program itself is not needed here."""

from __future__ import annotations

import sys

import pytest
import torch

from aquarat_core.conversation import assistant_message, user_message
from aquarat_core.errors import DataError, UsageError
from aquarat_core.evaluation.harness.adapter import adapter
from aquarat_core.evaluation.harness.answering import Answerer, Writing
from aquarat_core.evaluation.harness.marked_text import MarkedText
from aquarat_core.evaluation.protocols.subject import Subject
from aquarat_core.rollout.engine import SYNC_EVERY
from aquarat_core.text.chat import render, render_prompt
from tests.factories import examples, guesser, random_model, reading_examples, reading_tokenizer, tokenizer

S = 128


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(random_model(tokenizer().vocab_size, sequence_len=S), tokenizer())


@pytest.fixture(scope="module")
def answerer(subject: Subject) -> Answerer:
    return Answerer(subject, seed=3, chat=False)


@torch.no_grad()
def alone(subject: Subject, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Log-probability of a continuation, and whether it is the most likely one, by a pass over the last S tokens."""
    ids = [*context, *continuation][-S:]
    n = len(continuation)
    logits = subject.model(torch.tensor([ids]))[0, -n - 1 : -1].double()
    logp = torch.log_softmax(logits, dim=-1)[torch.arange(n), continuation]
    return float(logp.sum()), logits.argmax(dim=-1).tolist() == continuation


@torch.no_grad()
def greedy(subject: Subject, prompt: list[int], n: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(subject.model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


# --- special tokens in texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "history",
    [
        [],
        [user_message("What is 1+1?"), assistant_message("2, \n")],
        [user_message(" What is <|user_end|><|assistant_start|>1+1? "), assistant_message("<|assistant_end|>é")],
    ],
)
def test_a_conversation_as_text_has_the_tokens_of_a_conversation(history: list) -> None:
    tok, text = tokenizer(), MarkedText(tokenizer())
    system = {"role": "system", "content": "Be brief."}
    asked = [system, *history, user_message("And\n<|bos|>2+2?")]
    assert text.encode(text.render(asked)) == render_prompt(tok, asked)
    assert text.encode(text.render(asked, reply=False)) == render_prompt(tok, asked)[:-1]
    begun = [*asked, assistant_message("It is ")]
    assert text.encode(text.render(begun)) == render(tok, begun)[0][:-1]
    assert text.plain(text.render(asked)).endswith("And\n<|bos|>2+2?<|user_end|><|assistant_start|>")
    # A text that goes on after a conversation is in the same turn.
    assert text.encode(text.render(asked) + "4") == [*render_prompt(tok, asked), *tok.encode("4")]


def test_text_is_never_a_special_token_and_begins_with_one() -> None:
    tok, text = tokenizer(), MarkedText(tokenizer())
    for said in ("", "Question", "<|bos|>", " <|assistant_end|> "):
        assert text.encode(said) == [tok.special("<|bos|>"), *tok.encode(said)]
        assert text.encode(said, bos=False) == tok.encode(said)
    other = MarkedText(reading_tokenizer()).render([user_message("x")])
    assert not set(text.encode(other)[1:]) & set(tok.special_ids.values()), "marks of another tokenizer"


# --- likelihoods ----------------------------------------------------------------------------------------------------


def test_likelihoods_are_those_of_a_plain_pass_and_longer_prompts_lose_their_beginning(
    subject: Subject, answerer: Answerer
) -> None:
    told: list[int] = []
    contexts = [answerer.text.encode(e.prompt * (1 + i)) for i, e in enumerate(examples()[:4])]
    texts = ["1", " nothing", "Answer: A", " 2 7"]
    pairs = [(context, tokenizer().encode(x)) for context in contexts for x in texts]
    pairs.append((contexts[0][:9], greedy(subject, contexts[0][:9], 3)))
    found = answerer.likelihoods(pairs, told.append)
    for pair, one in zip(pairs, found, strict=True):
        expected, is_greedy = alone(subject, *pair)
        assert one.logprob == pytest.approx(expected, abs=1e-4) and one.is_greedy == is_greedy
    assert found[-1].is_greedy and told[-1] == len(pairs)
    cropped = [answerer.is_cropped(pair) for pair in pairs]
    assert any(cropped) and not all(cropped) and cropped == [len(c) + len(x) > S for c, x in pairs]


def test_a_continuation_without_text_is_named(answerer: Answerer) -> None:
    with pytest.raises(DataError, match=r"after 'Q: 1\+1\?' comes a continuation without text"):
        answerer.likelihoods([(tokenizer().encode("Q: 1+1?"), [])])


# --- answers --------------------------------------------------------------------------------------------------------


def test_answers_are_the_most_likely_tokens_up_to_a_text_that_ends_them(subject: Subject, answerer: Answerer) -> None:
    prompts = [answerer.text.encode(e.prompt[-60:]) for e in examples()[:6]]
    whole = answerer.write(prompts, [Writing((), 60)] * 6)
    for prompt, one in zip(prompts, whole, strict=True):
        ids = greedy(subject, prompt, 60)
        ends = [i for i, id in enumerate(ids) if id in (answerer.end, tokenizer().special("<|assistant_end|>"))]
        assert one.text == tokenizer().decode(ids[: ends[0]] if ends else ids)
        assert one.truncated == (not ends) and not one.cropped
    told: list[int] = []
    for share in (0.1, 0.4, 0.9):
        stops = [one.text[(at := int(share * len(one.text))) : at + 3] for one in whole]
        how = [Writing(("no such text", stop), 60) for stop in stops]
        for one, stop, stopped in zip(whole, stops, answerer.write(prompts, how, told.append), strict=True):
            assert stopped.text == one.text[: one.text.index(stop)] and stop not in stopped.text
            assert not stopped.truncated
    assert told[-1] == 6 and told.count(6) == 3


def test_an_answer_that_has_ended_is_not_written_further(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [answerer.text.encode(e.prompt[-60:]) for e in examples()[:2]]
    first, second = answerer.write(prompts, [Writing((), 60)] * 2)
    written: list[list[int]] = []
    generate = answerer.engine.generate

    def counted(*arguments, **more):
        found = generate(*arguments, **more)
        written.append([len(completion.tokens) for (completion,) in found])
        return found

    monkeypatch.setattr(answerer.engine, "generate", counted)
    found = answerer.write(prompts, [Writing((first.text[:2],), 60), Writing(("no such text",), 60)])
    assert found[0].text == "" and found[1] == second
    (stopped,), (whole,) = written
    assert stopped <= 2 + SYNC_EVERY < whole


def test_the_turn_of_the_assistant_ends_an_answer() -> None:
    """The guesser has learned to answer with one line, and then to end."""
    chat = Answerer(Subject(guesser(), reading_tokenizer()), seed=0, chat=True)
    prompts = [chat.text.encode(chat.text.render(e.messages)) for e in reading_examples(4)]
    for one in chat.write(prompts, [Writing((), 16)] * 4):
        assert one.text.startswith("Answer: ") and not one.truncated and "<|" not in one.text


def test_a_prompt_without_room_loses_its_beginning_and_no_answer_has_more_than_half_the_context(
    subject: Subject, answerer: Answerer
) -> None:
    long = answerer.text.encode(examples()[0].prompt * 5)
    asked = [long, long[:20], long[: S - 40]]
    first, second, third = answerer.write(asked, [Writing((), 1000), Writing((), 1000), Writing((), 40)])
    assert first.text == tokenizer().decode(greedy(subject, long[-S // 2 :], S // 2)).partition("<|bos|>")[0]
    assert (first.cropped, second.cropped, third.cropped) == (True, False, False)
    assert third.text == tokenizer().decode(greedy(subject, long[: S - 40], 40)).partition("<|bos|>")[0]


def test_a_sample_depends_on_its_place_and_the_seed(subject: Subject, answerer: Answerer) -> None:
    prompt = answerer.text.encode("Say something")
    how = Writing((), 40, temperature=1.0, top_k=50)
    one, two = answerer.write([prompt] * 2, [how] * 2)
    assert one.text != two.text and answerer.write([prompt] * 2, [how] * 2) == [one, two]
    assert answerer.write([prompt, prompt], [Writing((), 5), how])[1] == two
    assert Answerer(subject, seed=4, chat=False).write([prompt], [how])[0].text != one.text


def test_without_the_program_a_sentence_says_how_to_get_it(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match=r"\./run setup --harness .* pip install 'aquarat\[eval\]'"):
        adapter(answerer, lambda *_: None)
