"""Near duplicates against a brute-force Jaccard over all pairs."""

import random

from aquarat_core.tasks.duplicates import HeldOut, near_groups, normalized

TRAINS = "A train 120 m long crosses a bridge 380 m long in 25 seconds. What is its speed in km per hour?"


def jaccard(a: str, b: str, gram: int = 5) -> float:
    def grams(text: str) -> set[tuple[str, ...]]:
        words = normalized(text).split()
        return {tuple(words[i : i + gram]) for i in range(max(1, len(words) - gram + 1))}

    x, y = grams(a), grams(b)
    return len(x & y) / len(x | y)


def test_the_three_rules() -> None:
    index = HeldOut({"v0": TRAINS})
    assert index.find(TRAINS.upper().replace("LONG", "long,").replace("?", "")) == ("v0", "same_text")
    assert index.find(TRAINS.replace("120", "90")) == ("v0", "same_but_numbers")
    assert index.find(TRAINS.replace("km per hour", "metres per second")) == ("v0", "similar")
    assert index.find("Tom buys 120 apples and eats 3. How many are left?") is None


def test_a_few_shared_words_are_not_enough() -> None:
    other = "What is its speed in km per hour, if a boat needs 4 hours to go up the river and 2 hours to come back?"
    assert 0 < jaccard(TRAINS, other) < 0.5
    assert HeldOut({"v0": TRAINS}).find(other) is None


def test_similarity_is_the_jaccard_of_word_5_grams() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(12)]
    texts = [" ".join(rng.choices(words, k=5)) + " " + " ".join(words[: rng.randint(3, 12)]) for _ in range(150)]
    held_out = {f"h{i}": t for i, t in enumerate(texts[:50])}
    for threshold in (0.2, 0.5, 0.8):
        index = HeldOut(held_out, threshold)
        for text in texts[50:]:
            near = {name for name, other in held_out.items() if jaccard(text, other) >= threshold}
            found = index.find(text)
            if found and found[1] == "similar":
                assert found[0] in near
            elif found is None:
                assert not near


def test_short_texts_are_compared_whole() -> None:
    index = HeldOut({"v0": "Divide Rs. 32000?"})
    assert index.find("Divide Rs 32000") == ("v0", "same_text")
    assert index.find("Divide Rs 500") == ("v0", "same_but_numbers")
    assert index.find("Multiply Rs 32000") is None


def test_operators_are_part_of_a_question() -> None:
    index = HeldOut({"v0": "900 + 5 \N{MULTIPLICATION SIGN} 12 = ?", "v1": "What is 3/4 + 1/2 ?"})
    assert index.find("7528:5306::4673:?") is None
    assert index.find("What is 3/4 - 1/2 ?") is None
    assert index.find("800 + 7 * 11 = ?") == ("v0", "same_but_numbers")
    assert index.find("What is 3/4+1/2?") == ("v1", "same_text")


def test_groups_are_those_that_brute_force_connects() -> None:
    rng = random.Random(1)
    words = [f"w{i}" for i in range(9)]
    texts = [" ".join(rng.choices(words, k=4)) + " " + " ".join(words[: rng.randint(2, 9)]) for _ in range(120)]
    texts += [texts[3].replace("w1", "w1 7"), texts[3].replace("w1", "w1 8"), texts[5].upper()]
    groups = near_groups(texts)
    expected = list(range(len(texts)))
    for i, a in enumerate(texts):
        for j, b in enumerate(texts[:i]):
            if HeldOut({"other": b}).find(a):
                old, new = expected[i], expected[j]
                expected = [new if x == old else x for x in expected]
    assert [[x == y for y in groups] for x in groups] == [[x == y for y in expected] for x in expected]
    assert 3 < len(set(groups)) < 110 and groups[0] == 0
    assert sorted(set(groups)) == list(range(len(set(groups))))


def test_copies_in_longer_texts() -> None:
    long = "A shop sells pens at four coins each and gives one free pen for every five pens, so what do twenty cost?"
    index = HeldOut({"v0": long, "v1": "How many days are in eleven whole leap years?", "v2": "What is 3 + 4?"})
    part = " ".join(long.split()[3:16])
    assert len(part.split()) == 13
    assert index.copied(f"Please tell me: {part}. I really need to know.") == ("v0", "shares_13_words")
    assert index.copied(" ".join(part.split()[1:])) is None, "twelve words in a row are none"
    assert index.copied("He asked HOW many days are in eleven whole leap years, and left") == ("v1", "contains_it")
    assert index.copied("How many days are in eleven leap years?") is None
    assert index.copied("What is 3 + 4? It is 7.") is None, "too short to be found in a longer text"
    assert index.copied("") is None
