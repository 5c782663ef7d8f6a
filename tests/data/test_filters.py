import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from newslora.config import DataConfig
from newslora.data.filters import Filtered, filter_rows

STORY = "The harbour council voted on Monday to rebuild the old ferry pier before the autumn storms arrive"
OTHER = "A striker from the northern league scored three times in the snow and sent the visitors home early"


def run(
    texts: list[str], labels: list[int] | None = None, tokens: list[int] | None = None, **config: object
) -> Filtered:
    codes = np.array(labels or [0] * len(texts), dtype=np.int64)
    counts = np.array(tokens or [20] * len(texts), dtype=np.int64)
    return filter_rows(texts, codes, counts, DataConfig.model_validate(config))


def dropped(filtered: Filtered) -> dict[str, list[int]]:
    return {name: rows.tolist() for name, rows in filtered.dropped.items() if len(rows)}


@pytest.mark.parametrize(
    ("texts", "taken"),
    [
        ([STORY, "", OTHER], {"empty": [1]}),
        ([STORY, "12 - 4, 18 - 3 (7) %", OTHER], {"non_letters": [1]}),
        ([STORY, OTHER, STORY.upper() + "!"], {"duplicate": [2]}),
        ([STORY, OTHER, STORY + " again"], {"near_duplicate": [2]}),
    ],
)
def test_each_filter_takes_its_rows(texts: list[str], taken: dict[str, list[int]]) -> None:
    filtered = run(texts)
    assert dropped(filtered) == taken
    assert filtered.kept.tolist() == [row for row in range(3) if [row] not in taken.values()]


def test_lengths_are_bounded_at_both_ends() -> None:
    texts = [f"{STORY} {word}" for word in ("one", "two", "three", "four")]
    assert dropped(run(texts, tokens=[4, 5, 9, 10], min_tokens=5, max_tokens=9, near_duplicates=False)) == {
        "too_short": [0],
        "too_long": [3],
    }


def test_a_text_under_two_labels_goes_with_all_its_rows() -> None:
    filtered = run([STORY, OTHER, STORY + "!", STORY, OTHER], [0, 1, 1, 0, 1])
    assert dropped(filtered) == {"label_conflict": [0, 2, 3], "duplicate": [4]}


def test_near_duplicates_may_stay() -> None:
    assert run([STORY, STORY + " again"], near_duplicates=False).kept.tolist() == [0, 1]


def test_letters_of_any_script_count() -> None:
    assert not dropped(run(["中央銀行は火曜日に金利を据え置いた", "Центральный банк сохранил ставку"]))


def test_the_bound_on_letters_is_a_share_of_what_is_not_blank() -> None:
    assert not dropped(run(["ab 12", "cd 34 "], min_letters=0.5))
    assert dropped(run(["ab 12", "cd 345"], min_letters=0.5)) == {"non_letters": [1]}


def test_nothing_may_be_left() -> None:
    filtered = run(["", ""])
    assert filtered.kept.tolist() == []
    assert {name: len(rows) for name, rows in filtered.dropped.items()}["empty"] == 2


@given(
    st.lists(st.tuples(st.sampled_from(["", "!!", STORY, STORY + ".", OTHER, "Oil up"]), st.integers(0, 1)), min_size=1)
)
def test_rows_are_parted_and_what_is_left_passes_again(rows: list[tuple[str, int]]) -> None:
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    filtered = run(texts, labels)
    parts = [filtered.kept, *filtered.dropped.values()]
    assert sorted(np.concatenate(parts)) == list(range(len(rows)))
    again = run([texts[row] for row in filtered.kept], [labels[row] for row in filtered.kept])
    assert len(again.kept) == len(filtered.kept)
