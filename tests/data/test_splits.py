import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from newslora.data.splits import draw_stratified, split_stratified

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(lambda labels: np.array(labels, dtype=np.int64))


@given(LABELS, st.integers(1, 250), st.integers(0, 1 << 40))
def test_a_draw_has_the_right_size_and_keeps_shares(labels: np.ndarray, count: int, seed: int) -> None:
    rows = draw_stratified(labels, count, seed)
    assert len(rows) == min(count, len(labels))
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < len(labels)
    sizes, drawn = np.bincount(labels, minlength=5), np.bincount(labels[rows], minlength=5)
    classes = (sizes > 0).sum()
    if count >= classes:
        assert (drawn[sizes > 0] > 0).all()
        assert (np.abs(drawn - len(rows) * sizes / len(labels)) <= classes).all()


@given(LABELS, st.floats(0.01, 0.99), st.integers(0, 1 << 40))
def test_a_split_parts_the_rows_and_leaves_each_class_some(labels: np.ndarray, share: float, seed: int) -> None:
    kept, aside = split_stratified(labels, share, seed)
    assert sorted([*kept, *aside]) == list(range(len(labels)))
    assert set(labels[kept]) == set(labels)
    if (np.bincount(labels) > 1).any():
        assert len(aside) > 0


def test_shares_are_kept_exactly_where_they_can_be() -> None:
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    kept, aside = split_stratified(labels, 0.05, 7)
    assert np.bincount(labels[aside]).tolist() == [25, 15, 10]
    assert np.bincount(labels[kept][draw_stratified(labels[kept], 100, 7)]).tolist() == [50, 30, 20]


@pytest.mark.parametrize("draw", [lambda seed: draw_stratified(np.arange(400) % 4, 40, seed)])
def test_the_seed_decides(draw) -> None:  # noqa: ANN001
    assert (draw(1) == draw(1)).all()
    assert (draw(1) != draw(2)).any()
