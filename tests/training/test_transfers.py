"""The order in which messages of several transfers start, with messages that arrive when a test says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aquarat_core.training.transfers import Transfers


class Message:
    """Arrives when `is_here` is set, or when it is waited for."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.is_here = name, log, False
        log.append(f"start {name}")

    def is_completed(self) -> bool:
        return self.is_here

    def wait(self) -> None:
        self.is_here = True
        self.log.append(f"wait {self.name}")


class Case:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.messages: dict[str, Message] = {}
        self.transfers = Transfers()

    def transfer(self, name: str) -> Iterator[Message]:
        for n in (1, 2):
            self.messages[f"{name}{n}"] = message = Message(f"{name}{n}", self.log)
            yield message
        self.log.append(f"end {name}")


@pytest.fixture
def case() -> Case:
    made = Case()
    for name in "ab":
        made.transfers.start(made.transfer(name))
    assert made.log == ["start a1", "start b1"]
    return made


def test_a_later_transfer_does_not_overtake(case: Case) -> None:
    case.messages["b1"].is_here = True
    case.transfers.advance()
    assert case.log == ["start a1", "start b1"], "b2 waits for a2"
    case.messages["a1"].is_here = True
    case.transfers.advance()
    assert case.log[2:] == ["wait a1", "start a2", "wait b1", "start b2"]
    case.messages["b2"].is_here = True
    case.transfers.advance()
    assert "end b" not in case.log, "the end is an order too"


def test_the_end_waits_for_everything_in_order(case: Case) -> None:
    case.transfers.finish()
    assert [line for line in case.log if not line.startswith("wait")] == [
        "start a1", "start b1", "start a2", "end a", "start b2", "end b",
    ]  # fmt: skip
    case.transfers.finish()
    case.transfers.start(case.transfer("c"))
    assert case.log[-1] == "start c1", "it can be used again"


def test_the_next_message_starts_while_another_transfer_is_waited_for(case: Case) -> None:
    case.messages["a1"].is_here = case.messages["b1"].is_here = True
    case.transfers.finish()
    assert case.log.index("start b2") < case.log.index("wait a2")
