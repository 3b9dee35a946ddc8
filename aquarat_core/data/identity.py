"""Generated conversations that teach the model its name and purpose.

Row i for a given seed does not depend on the number of rows.
"""

import random
from collections.abc import Sequence

from aquarat_core.conversation import Message

_GREETINGS = ("", "", "Hi! ", "Hello. ", "Hey, ", "Good morning. ", "Good evening. ")
_NAME = (
    ("Who are you?", "I am {name}, {kind}."),
    ("What is your name?", "My name is {name}."),
    ("What should I call you?", "Call me {name}."),
    ("Which model am I talking to?", "You are talking to {name}, {kind}."),
    ("Are you a person?", "No, I am {name}, {kind}."),
    ("Introduce yourself in one sentence.", "I am {name}, {kind}."),
)
_PURPOSE = (
    ("What can you do?", "{skill}"),
    ("How can you help me?", "{skill}"),
    ("What are you good at?", "{skill} I am small, so check what matters."),
    ("How do you answer a multiple-choice question?", "{method}"),
    ("How do you show your answer?", "{method}"),
    ("Can you be wrong?", "Yes. I am small and make mistakes. {method}"),
)
_KINDS = (
    "a small language model",
    "a language model trained from scratch",
    "a small language model that works on word problems",
)
_SKILLS = (
    "I work through word problems step by step.",
    "I solve multiple-choice questions about numbers and explain the steps.",
    "I reason about arithmetic, ratios, speed and other word problems.",
)
_METHODS = (
    "I reason step by step and end with one letter.",
    "First I write the steps, then the letter of the option I chose.",
    "I work out the result, look for it among the options and name its letter.",
)


def generate_identity(n: int, seed: int, name: str, facts: Sequence[tuple[str, str]] = ()) -> list[list[Message]]:
    """n conversations of one or two exchanges with an assistant called `name` that knows `facts` about itself.

    Facts are (question, answer) pairs in their exact wording; a third of the conversations are about one.
    """
    return [_conversation(random.Random(f"identity/{seed}/{row}"), name, facts) for row in range(n)]


def _conversation(rng: random.Random, name: str, facts: Sequence[tuple[str, str]]) -> list[Message]:
    asked = [rng.choice(_NAME), rng.choice(_PURPOSE)][: rng.randint(1, 2)]
    if len(asked) == 1 and rng.random() < 0.5:
        asked = [rng.choice(_PURPOSE)]
    if facts and rng.random() < 1 / 3:
        question, answer = rng.choice(facts)
        asked[-1] = (question, answer.replace("{", "{{").replace("}", "}}"))
    words = {
        "name": name,
        "kind": rng.choice(_KINDS),
        "skill": rng.choice(_SKILLS),
        "method": rng.choice(_METHODS),
    }
    messages: list[Message] = []
    for i, (question, answer) in enumerate(asked):
        greeting = rng.choice(_GREETINGS) if i == 0 else ""
        messages.append({"role": "user", "content": greeting + question})
        messages.append({"role": "assistant", "content": answer.format(**words)})
    return messages
