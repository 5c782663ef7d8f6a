import random

import numpy as np
import pytest

from newslora.data.duplicates import SIMILARITY, first_alike, first_near, normalise

WORDS = [
    f"{a}{b}"
    for a in ("har", "tel", "ver", "str", "lum", "ock")
    for b in ("bour", "escope", "dict", "iker", "en", "ra", "ide")
]


def article(generator: random.Random, words: int = 40) -> list[str]:
    return generator.choices(WORDS, k=words)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def jaccard(a: str, b: str) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def test_normalising_keeps_letters_and_digits() -> None:
    assert normalise("The  CUP-final: 2–1!") == normalise("the cup final 21") == "thecupfinal21"
    assert normalise("STRASSE") == normalise("straße")
    assert normalise("…!") == "…!"


def test_first_alike() -> None:
    assert first_alike(["a", "b", "a", "c", "b"]).tolist() == [0, 1, 0, 3, 1]


def test_near_repeats_are_found_exactly_where_the_similarity_says() -> None:
    generator = random.Random(0)
    texts, expected = [], []
    for row in range(0, 600, 2):
        words = article(generator)
        changed = words.copy()
        for at in generator.sample(range(40), generator.choice([0, 1, 2, 3, 9])):
            changed[at] = "changed"
        texts += [" ".join(words), " ".join(changed) + "!"]
        expected += [row, row if jaccard(texts[-2], texts[-1][:-1]) >= SIMILARITY else row + 1]
    assert 50 < sum(first != row for row, first in enumerate(expected)) < 250
    assert first_near(texts).tolist() == expected


def test_near_repeats_join_through_each_other() -> None:
    words = article(random.Random(1), 60)
    steps = [[*words[:at], *["x"] * at] if at else words for at in (0, 2, 4, 6)]
    texts = [" ".join(step[at:] + step[:at]) for at, step in enumerate([words] * 4)]
    assert len(steps) == 4
    assert first_near([*texts, "something else entirely"]).tolist() == [0, 0, 0, 0, 4]


def test_short_texts_repeat_only_when_equal() -> None:
    assert first_near(["Oil up", "oil up!", "Oil down", "Oil", "…", "!!", "…"]).tolist() == [0, 0, 2, 3, 4, 5, 4]


@pytest.mark.parametrize("count", [1, 2])
def test_few_texts(count: int) -> None:
    assert first_near(["the harbour reopened today"] * count).tolist() == [0] * count


def test_many_alike_take_linear_time() -> None:
    text = " ".join(article(random.Random(2)))
    assert not first_near([f"{text} {row}" for row in range(20_000)]).any()


def test_the_result_does_not_hang_on_the_process() -> None:
    generator = random.Random(3)
    texts = [" ".join(article(generator)) for _ in range(50)]
    assert np.array_equal(first_near(texts + texts), np.tile(np.arange(50), 2))
