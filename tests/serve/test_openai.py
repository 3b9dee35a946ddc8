"""The API, spoken by OpenAI's own client and by `llm`; its answers are those of the model in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import requests
import torch
from pydantic import ValidationError

import aquarat_core as aq
from aquarat_core.rollout.batch import Drawn
from aquarat_core.rollout.random import row_key
from aquarat_core.serving.openai import answering
from aquarat_core.serving.openai.bodies import ChatBody, TextBody
from aquarat_core.text.chat import reading_text, render_prompt
from aquarat_core.text.reading import Reader
from tests.patience import limit
from tests.serve.conftest import Server

QUESTION = [{"role": "user", "content": "Zoe has 6 pens and buys 4 more. How many are there?"}]
TALK = [
    {"role": "system", "content": "Be short."},
    *QUESTION,
    {"role": "assistant", "content": "10"},
    {"role": "user", "content": "And with 5 more?"},
]


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=limit(60))


def test_models_are_listed(client: openai.OpenAI) -> None:
    (one,) = client.models.list()
    assert one.id == "toy" and client.models.retrieve("toy").owned_by == "aquarat"
    with pytest.raises(openai.NotFoundError, match="this server has toy"):
        client.models.retrieve("other")


def said_by(model: aq.Model, messages: list, max_tokens: int, seed: int, temperature: float = 1.0) -> tuple[str, bool]:
    """The model's own answer with that seed, and whether it came to an end."""
    key, ids = row_key("serve", seed, 0, 0), render_prompt(model.tokenizer, messages)
    ((found,),) = model.engine.generate([ids], [[key]], max_tokens, temperature)
    return reading_text(model.tokenizer, found.content), found.ended


@pytest.mark.parametrize("messages", [QUESTION, TALK])
def test_an_answer_is_the_models(client: openai.OpenAI, model: aq.Model, messages: list) -> None:
    found: set[str] = set()
    for seed in range(12):
        answer = client.chat.completions.create(model="toy", messages=messages, seed=seed, max_tokens=40)
        text, ended = said_by(model, messages, 40, seed)
        (choice,) = answer.choices
        assert choice.message.content == text and choice.finish_reason == ("stop" if ended else "length")
        assert answer.usage.completion_tokens <= 40
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        found.add(choice.finish_reason)
    assert found == {"stop", "length"}


def test_content_may_come_in_parts_and_system_be_called_developer(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}]
    other = [{"role": "developer", "content": parts}, *TALK[1:]]
    answers = [
        client.chat.completions.create(model="toy", messages=m, seed=1, max_completion_tokens=20) for m in (TALK, other)
    ]
    assert answers[0].choices == answers[1].choices


@pytest.mark.parametrize(
    "how", [{"temperature": 0}, {"temperature": 1.0, "seed": 5}, {"temperature": 1.3, "top_p": 0.9}]
)
def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI, how: dict) -> None:
    how = {"seed": 1, "max_tokens": 50, "n": 2} | how
    whole = client.chat.completions.create(model="toy", messages=QUESTION, **how)
    texts, finish, usage = ["", ""], [None, None], None
    stream = client.chat.completions.create(
        model="toy", messages=QUESTION, stream=True, stream_options={"include_usage": True}, **how
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finish[choice.index] = choice.finish_reason or finish[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert finish == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert (texts[0] == texts[1]) == (how["temperature"] == 0)


def test_a_seed_repeats_an_answer_and_none_does_not(client: openai.OpenAI) -> None:
    def said(**how) -> str:
        made = client.chat.completions.create(model="toy", messages=QUESTION, max_tokens=30, temperature=1.0, **how)
        return made.choices[0].message.content

    assert said(seed=3) == said(seed=3) != said(seed=4)
    assert said() != said()


def test_answers_end_before_a_stop_text(client: openai.OpenAI, model: aq.Model) -> None:
    whole, _ = said_by(model, QUESTION, 40, 2)
    stop = whole[6:9]
    assert len(stop) == 3
    for stream in (False, True):
        made = client.chat.completions.create(
            model="toy", messages=QUESTION, max_tokens=40, seed=2, stop=["never said", stop], stream=stream
        )
        if stream:
            chunks = [chunk.choices[0] for chunk in made]
            text, finish = "".join(c.delta.content or "" for c in chunks), chunks[-1].finish_reason
        else:
            text, finish = made.choices[0].message.content, made.choices[0].finish_reason
        assert text == whole[: whole.find(stop)] and finish == "stop"


def test_an_answer_does_not_depend_on_how_many_tokens_come_at_a_time(model: aq.Model) -> None:
    """The stop text that is complete first ends the answer, and tokens after it do not count."""
    tokens = [Drawn(0, id) for id in model.tokenizer.encode("it is x, so y and z")]
    texts = [model.tokenizer.decode([one.token for one in tokens[:n]]) for n in range(len(tokens) + 1)]
    stops = [" is x, so y an", "x,", "so"]

    def read(sizes: list[int]) -> tuple[str, int]:
        reader, at, said, n_sampled = Reader(model.tokenizer, stops), 0, "", 0
        for size in sizes:
            text, shown, n = answering._read(reader, tokens[at : at + size], [])
            said, n_sampled, at = said + text, n_sampled + n, at + size
            assert len(shown) == n
            if reader.stopped:
                break
        return said, n_sampled

    expected = "it is ", next(n for n, text in enumerate(texts) if "x," in text)
    for size in range(1, len(tokens) + 1):
        assert read([size] * len(tokens)) == expected


def test_log_probabilities_are_the_networks(client: openai.OpenAI, model: aq.Model) -> None:
    made = client.chat.completions.create(
        model="toy", messages=QUESTION, max_tokens=12, temperature=1.0, seed=8, logprobs=True, top_logprobs=3
    )
    content = made.choices[0].logprobs.content
    assert len(content) in (made.usage.completion_tokens, made.usage.completion_tokens - 1)
    ids = render_prompt(model.tokenizer, QUESTION)
    for item in content:
        expected = next_logprobs(model, ids)
        id = next(id for id in range(model.tokenizer.vocab_size) if list(model.tokenizer.token(id)) == item.bytes)
        assert item.logprob == pytest.approx(float(expected[id]), abs=1e-3)
        best = expected.topk(3).values.tolist()
        assert [top.logprob for top in item.top_logprobs] == pytest.approx(best, abs=1e-3)
        ids.append(id)


@torch.no_grad()
def next_logprobs(model: aq.Model, ids: list[int]) -> torch.Tensor:
    return torch.log_softmax(model.transformer(torch.tensor([ids]))[0, -1].float(), dim=0)


def test_texts_are_continued_and_scored(client: openai.OpenAI, model: aq.Model) -> None:
    texts = ["Zoe has 6", "12 + 30 ="]
    made = client.completions.create(model="toy", prompt=texts, max_tokens=6, temperature=0, echo=True, logprobs=2)
    for text, choice in zip(texts, made.choices, strict=True):
        (expected,) = model.generate(text, max_new_tokens=6)
        assert choice.text == text + expected.text
        n = len(model.tokenizer.encode(text))
        assert choice.logprobs.token_logprobs[:n] == pytest.approx(model.logprobs(text).logprobs, abs=1e-3)
        assert "".join(choice.logprobs.tokens[:n]) == text
        assert choice.logprobs.text_offset[:n] == [len("".join(choice.logprobs.tokens[:i])) for i in range(n)]
        assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)


def test_a_text_is_scored_without_a_new_token(client: openai.OpenAI, model: aq.Model) -> None:
    ids = [model.tokenizer.special("<|bos|>"), *model.tokenizer.encode("Zoe has 6")]
    for prompt in ("Zoe has 6", ids):
        made = client.completions.create(model="toy", prompt=prompt, max_tokens=0, echo=True, logprobs=0)
        logprobs = made.choices[0].logprobs.token_logprobs
        assert made.usage.completion_tokens == 0
        if isinstance(prompt, list):
            assert logprobs[0] is None  # nothing comes before it
            logprobs = logprobs[1:]
        assert logprobs == pytest.approx(model.logprobs("Zoe has 6").logprobs, abs=1e-3)


def test_streamed_texts(client: openai.OpenAI, model: aq.Model) -> None:
    chunks = list(client.completions.create(model="toy", prompt="Zoe has", max_tokens=9, temperature=0, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == model.generate("Zoe has", max_new_tokens=9)[0].text


def test_calls_of_the_calculator_come_beside_the_text(server: Server) -> None:
    asked = {"model": "toy", "messages": QUESTION, "max_tokens": 150, "temperature": 1.0, "calculator": True, "n": 8}
    made = requests.post(f"{server.url}/v1/chat/completions", json=asked | {"seed": 2}, timeout=limit(60)).json()
    calls = [call for choice in made["choices"] for call in choice["message"].get("calls", [])]
    assert any(call["result"] for call in calls)
    assert all(set(call) == {"expression", "result"} for call in calls)
    asked |= {"seed": 2, "stream": True}
    lines = requests.post(f"{server.url}/v1/chat/completions", json=asked, timeout=limit(60)).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    streamed = [call for e in events for choice in e["choices"] for call in choice["delta"].get("calls", [])]
    assert sorted(map(str, streamed)) == sorted(map(str, calls))


WRONG = {
    "model": ({"model": "other"}, 404, "model_not_found"),
    "conversation": ({"messages": [{"role": "assistant", "content": "x"}]}, 400, None),
    "none": ({"messages": []}, 400, None),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, 400, None),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, None),
    "long": ({"messages": [{"role": "user", "content": "x" * 5_000}]}, 400, "context_length_exceeded"),
    "max_tokens": ({"max_tokens": 0}, 400, None),
    "more": ({"max_tokens": 10_000}, 400, None),
    "temperature": ({"temperature": -1}, 400, None),
    "tiny": ({"temperature": 1e-9}, 400, None),
    "huge": ({"temperature": 1e9}, 400, None),
    "top_p": ({"top_p": 0}, 400, None),
    "seed": ({"seed": 2**70}, 400, None),
    "stop": ({"stop": [""]}, 400, None),
    "n": ({"n": 1000}, 400, None),
    "top_logprobs": ({"top_logprobs": 2}, 400, None),
    "tools": ({"tools": [{"type": "function", "function": {"name": "x"}}]}, 400, None),
    "form": ({"response_format": {"type": "json_object"}}, 400, None),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_answered_is_said_in_the_clients_terms(client: openai.OpenAI, name: str) -> None:
    given, status, code = WRONG[name]
    asked = {"model": "toy", "messages": QUESTION, "max_tokens": 5} | given
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**asked)
    assert refused.value.status_code == status and refused.value.code == code
    assert refused.value.body["message"] and "Traceback" not in str(refused.value.body)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b'{"model": "toy"}', b'{"model": 1}', b"9" * 5_000])
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_body_that_is_none_is_a_mistake_of_the_client(server: Server, path: str, body: bytes) -> None:
    answer = requests.post(f"{server.url}/v1/{path}", data=body, timeout=limit(10))
    assert answer.status_code == 400 and answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": []}, {"prompt": [[]]}, {"prompt": [-1]}, {"prompt": [10**6]}, {"prompt": "x", "max_tokens": 0},
        {"prompt": "x", "suffix": "y"}, {"prompt": "x", "echo": True, "stream": True}, {"prompt": [1, "x"]},
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_continued(server: Server, given: dict) -> None:
    answer = requests.post(f"{server.url}/v1/completions", json={"model": "toy"} | given, timeout=limit(10))
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_more_answers_than_the_server_ever_takes_are_the_clients_mistake(server: Server) -> None:
    body = {"model": "toy", "prompt": ["x"] * 100, "n": 16, "max_tokens": 1}
    answer = requests.post(f"{server.url}/v1/completions", json=body, timeout=limit(10))
    assert answer.status_code == 400 and "asks for 1600 answers" in answer.json()["error"]["message"]
    body |= {"max_tokens": 0, "echo": True}  # no answer is generated
    assert requests.post(f"{server.url}/v1/completions", json=body, timeout=limit(60)).ok


@pytest.mark.parametrize(
    ("path", "field", "items"),
    [
        ("chat/completions", "messages", "1"), ("chat/completions", "stop", '""'), ("completions", "prompt", "-1"),
        ("completions", "prompt", '""'), ("completions", "prompt", "[-1]"),
    ],
)  # fmt: skip
def test_many_mistakes_cost_no_more_than_one(path: str, field: str, items: str) -> None:
    kind = ChatBody if path.startswith("chat") else TextBody
    content = f'{{"model": "toy", "{field}": [{", ".join([items] * 200_000)}]}}'
    with pytest.raises(ValidationError) as refused:
        kind.model_validate_json(content)
    assert refused.value.error_count() < 10


def test_many_at_once_get_what_each_gets_alone(client: openai.OpenAI) -> None:
    def said(n: int) -> str:
        messages = [{"role": "user", "content": f"{n} + {n * n} = ?"}]
        made = client.chat.completions.create(
            model="toy", messages=messages, max_tokens=5 + n, temperature=[0, 0.7, 1.0][n % 3], seed=n
        )
        return made.choices[0].message.content

    alone = [said(n) for n in range(30)]
    with ThreadPoolExecutor(15) as pool:
        assert list(pool.map(said, range(30))) == alone


def test_llm_talks_to_it(server: Server, model: aq.Model, tmp_path: Path) -> None:
    described = f"- model_id: mine\n  model_name: toy\n  api_base: {server.url}/v1\n  api_key_name: none\n"
    (tmp_path / "extra-openai-models.yaml").write_text(described)
    told = ["-m", "mine", "-o", "temperature", "1", "-o", "seed", "3", "-o", "max_tokens", "30", QUESTION[0]["content"]]
    for extra in ([], ["--no-stream"]):
        made = subprocess.run(
            [sys.executable, "-m", "llm", "prompt", *told, *extra],
            env=os.environ | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"},
            capture_output=True, text=True, timeout=limit(60), check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        assert made.stdout.strip() == said_by(model, QUESTION, 30, 3)[0].strip() != ""
