"""The other processes of the serve bench: clients of a server, and the engine alone.

`WORK` says which, and where the results go: one JSON object in the file `out`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT_WORDS = ("Tom", "has", "pens", "and", "buys", "more", "boxes", "of", "apples", "each", "day", "for", "dollars")
CHUNK = b'"content":"'


@dataclass(slots=True)
class Answer:
    """What a client saw of one stream."""

    text: str
    tokens: int
    first: float | None
    """Seconds to the first text."""
    last: float
    complete: bool


def prompt(i: int) -> str:
    """A question of its own for each number."""
    chosen = random.Random(i)
    return f"{i}: " + " ".join(chosen.choice(PROMPT_WORDS) for _ in range(24)) + "?"


async def ask(port: int, i: int, max_tokens: int, temperature: float, hang_up_after: int | None = None) -> Answer:
    """Stream one answer; after `hang_up_after` bytes of the response, close the connection in its midst."""
    body = json.dumps(
        {
            "model": "model", "messages": [{"role": "user", "content": prompt(i)}], "max_tokens": max_tokens,
            "temperature": temperature, "seed": i, "stream": True, "stream_options": {"include_usage": True},
        }
    ).encode()  # fmt: skip
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}"
    writer.write(head.encode() + b"\r\n\r\n" + body)
    received, first = bytearray(), None
    try:
        while part := await reader.read(1 << 16):
            received += part
            if first is None and b'"content":"' in received.replace(b'"content":""', b""):
                first = time.perf_counter() - began
            if hang_up_after is not None and len(received) >= hang_up_after:
                break
    finally:
        writer.close()
    return _read(bytes(received), first, time.perf_counter())


def _read(received: bytes, first: float | None, last: float) -> Answer:
    text, tokens, complete = "", 0, False
    for line in received.split(b"\n"):
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            complete = True
            continue
        try:
            event = json.loads(line[6:])
        except ValueError:
            continue  # cut off by hanging up
        if "error" in event:
            raise RuntimeError(event["error"]["message"])
        for choice in event["choices"]:
            text += choice["delta"].get("content", "")
        tokens = event.get("usage", {}).get("completion_tokens", tokens)
    return Answer(text, tokens, first, last, complete)


async def _load(port: int, streams: int, max_tokens: int, rounds: int) -> dict[str, Any]:
    """`rounds` times that many streams at a time; tokens per second of each round, and times to the first text."""
    rates: list[float] = []
    firsts: list[float] = []
    for round in range(rounds):
        began = time.perf_counter()
        asked = (ask(port, round * streams + i, max_tokens, 1.0) for i in range(streams))
        answers = await asyncio.gather(*asked)
        assert all(answer.complete for answer in answers), "a stream was not complete"
        rates.append(sum(a.tokens for a in answers) / (max(a.last for a in answers) - began))
        firsts += [a.first for a in answers if a.first is not None]
    return {"rates": rates, "firsts": sorted(firsts)}


async def _disconnecting(port: int, requests: int, at_once: int, kinds: int, pid: int) -> dict[str, Any]:
    """Many requests of which three in ten hang up at a random place; every text is compared with the one that the same
    question got alone, and the server's memory is read now and then."""
    chosen = random.Random(0)
    alone = {i: (await ask(port, i, 8 + i % 32, 0.0)).text for i in range(kinds)}
    left, wrong, hung_up, memory = requests, 0, 0, [_resident(pid)]

    async def client() -> None:
        nonlocal left, wrong, hung_up
        while left > 0:
            left -= 1
            if left % max(1, requests // 20) == 0:
                memory.append(_resident(pid))
            i = chosen.randrange(kinds)
            after = chosen.randrange(200, 6_000) if chosen.random() < 0.3 else None
            answer = await ask(port, i, 8 + i % 32, 0.0, after)
            if answer.complete:
                wrong += answer.text != alone[i]
            else:
                hung_up += 1
                assert after is not None, "a stream ended before it was complete"
                wrong += not alone[i].startswith(answer.text)

    await asyncio.gather(*(client() for _ in range(at_once)))
    return {"wrong": wrong, "hung_up": hung_up, "memory": memory}


def _resident(pid: int) -> float:
    """MiB of memory that a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _engine(folder: str, streams: int, max_tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens per second of the engine's own batch on the same prompts and in the same way."""
    from aquarat_core.loading import load
    from aquarat_core.rollout.random import row_key
    from aquarat_core.text.chat import render_prompt

    model = load(Path(folder))
    rates: list[float] = []
    for round in range(rounds + 1):
        numbers = range(round * streams, (round + 1) * streams)
        prompts = [render_prompt(model.tokenizer, [{"role": "user", "content": prompt(i)}]) for i in numbers]
        keys = [[row_key("serve", i, 0, 0)] for i in numbers]
        began = time.perf_counter()
        found = model.engine.generate(prompts, keys, max_tokens, 1.0)
        rates.append(sum(len(c.tokens) for (c,) in found) / (time.perf_counter() - began))
    return {"rates": rates[1:]}  # the first warms up


def main() -> None:
    work = json.loads(os.environ["WORK"])
    out, kind = Path(work.pop("out")), work.pop("kind")
    if kind == "engine":
        result = _engine(**work)
    else:
        result = asyncio.run({"load": _load, "disconnecting": _disconnecting}[kind](**work))
    out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
