"""Parts of a table, made so that each part's figures are known."""

import numpy as np
import pytest
from scipy.stats import binomtest

from newslora.config import DataConfig
from newslora.evaluation.slices import measure_slices

TEXTS = [
    "a b c d e", "f g h i j", "k l m n o", "p q r s t",  # five words
    "one two three four five six seven", "red green blue black white grey pink",  # seven
    "cat dog cow pig hen fox owl rat bat (Reuters)", "ant bee fly bug moth tick louse wasp AP - x",
]  # fmt: skip
TOKENS = np.array([7, 7, 7, 2, 9, 9, 600, 11])
LABELS = np.array([0, 1, 0, 1, 0, 1, 0, 1])
LOGITS = np.eye(2)[[0, 1, 0, 0, 0, 1, 1, 1]]  # the fourth and the seventh are wrong


def parts(**changes: object) -> dict[tuple[str, str], dict[str, object]]:
    values = {"texts": TEXTS, "tokens": TOKENS, "labels": LABELS, "logits": LOGITS, "config": DataConfig()} | changes
    slices = measure_slices(**values)["slices"]
    return {(part["by"], part["slice"]): part for part in slices}


def test_lengths_are_told_in_words() -> None:
    found = {name: part for (kind, name), part in parts().items() if kind == "length"}
    assert {name: part["n"] for name, part in found.items()} == {
        "5 to 5 words": 4,
        "7 to 7 words": 2,
        "10 to 11 words": 2,
    }
    assert found["5 to 5 words"]["accuracy"] == 0.75


def test_agencies_are_found_where_named() -> None:
    found = parts()
    assert found["agency", "named"]["n"] == 2
    assert found["agency", "named"]["accuracy"] == 0.5
    assert found["agency", "not named"]["n"] == 6


def test_rows_are_told_by_the_filter_that_would_drop_them() -> None:
    found = {name: part["n"] for (kind, name), part in parts().items() if kind == "filter"}
    assert found == {"kept": 6, "too_short": 1, "too_long": 1}
    loose = parts(config=DataConfig(min_tokens=0, max_tokens=1000))
    assert loose["filter", "kept"]["n"] == 8


@pytest.mark.parametrize("kind", ["length", "agency", "filter"])
def test_the_parts_of_a_kind_make_up_the_whole(kind: str) -> None:
    own = [part for (by, _), part in parts().items() if by == kind]
    assert sum(part["n"] for part in own) == 8
    assert sum(part["n"] * part["accuracy"] for part in own) == pytest.approx(6)


def test_intervals_are_wilsons_and_have_width_without_mistakes() -> None:
    part = parts()["length", "7 to 7 words"]
    assert part["accuracy"] == part["macro_f1"] == 1.0
    expected = binomtest(2, 2).proportion_ci(method="wilson")
    assert part["interval_95"]["accuracy"] == [expected.low, expected.high]
    assert expected.low < 0.5


def test_rows_without_a_label_are_left_out() -> None:
    found = parts(labels=np.array([-1, 1, 0, 1, 0, 1, 0, 1]))
    assert found["agency", "not named"]["n"] == 5
    assert sum(part["n"] for (kind, _), part in found.items() if kind == "filter") == 7
