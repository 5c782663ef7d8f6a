"""Batches hold every article once, within their bounds, and depend on the seed and the epoch alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from newslora.data.batches import WINDOW, Batch, evaluation_batches, make_batch, training_batches
from newslora.data.encoding import Encoded

length_lists = st.lists(st.integers(1, 130), min_size=1, max_size=300).map(np.array)
limits = st.fixed_dictionaries({"batch_size": st.integers(1, 40), "batch_tokens": st.none() | st.integers(1, 600)})
seeds = st.fixed_dictionaries({"seed": st.integers(0, 2**31), "epoch": st.integers(0, 50)})


def articles(*lengths: int) -> Encoded:
    """Article i's tokens are 100 · i, 100 · i + 1, …"""
    ids = [100 * row + place for row, length in enumerate(lengths) for place in range(length)]
    return Encoded(np.array(ids, dtype=np.int32), np.cumsum([0, *lengths]))


@given(lengths=length_lists, limit=limits, when=seeds)
def test_an_epoch_holds_each_row_exactly_once(lengths: np.ndarray, limit: dict[str, int], when: dict[str, int]) -> None:
    batches = training_batches(lengths, **limit, **when)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(lengths=length_lists, limit=limits, when=seeds)
def test_batches_keep_their_bounds(lengths: np.ndarray, limit: dict[str, int], when: dict[str, int]) -> None:
    tokens = limit["batch_tokens"]
    for batch in training_batches(lengths, **limit, **when):
        if tokens is None:
            assert len(batch) <= limit["batch_size"]
        else:
            assert lengths[batch].sum() <= tokens or len(batch) == 1


@given(lengths=length_lists, limit=limits, when=seeds)
def test_batches_depend_on_their_arguments_alone(
    lengths: np.ndarray, limit: dict[str, int], when: dict[str, int]
) -> None:
    first = training_batches(lengths, **limit, **when)
    np.random.default_rng(0).random()
    np.random.seed(1)
    torch.manual_seed(1)
    second = training_batches(lengths, **limit, **when)
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in second]


def test_epochs_and_seeds_differ() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 500)
    limit = {"batch_size": 16, "batch_tokens": None}
    orders = {
        str([batch.tolist() for batch in training_batches(lengths, **limit, seed=seed, epoch=epoch)])
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_which_articles_share_a_batch_changes_from_epoch_to_epoch() -> None:
    lengths = np.full(2000, 20)
    first, second = (
        {
            frozenset(batch.tolist())
            for batch in training_batches(lengths, batch_size=8, batch_tokens=None, seed=0, epoch=e)
        }
        for e in (0, 1)
    )
    assert not first & second


@pytest.mark.parametrize("limit", [{"batch_size": 16, "batch_tokens": None}, {"batch_size": 1, "batch_tokens": 800}])
def test_lengths_within_a_batch_are_close_and_no_batch_order_by_length_is_left(limit: dict[str, int | None]) -> None:
    lengths = np.random.default_rng(0).integers(5, 129, 5000)
    batches = training_batches(lengths, **limit, seed=0, epoch=0)
    padding = sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum() - 1
    assert padding < 0.04  # against 0.8 and more in batches drawn at random
    means = np.array([lengths[batch].mean() for batch in batches])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.15


def test_token_batches_are_well_filled() -> None:
    lengths = np.random.default_rng(0).integers(5, 129, 3000)
    batches = training_batches(lengths, batch_size=1, batch_tokens=2000, seed=0, epoch=0)
    assert len(batches) < 1.1 * lengths.sum() / 2000


@given(lengths=length_lists, tokens=st.integers(1, 600))
def test_evaluation_takes_the_longest_first_each_once_within_its_tokens(lengths: np.ndarray, tokens: int) -> None:
    batches = evaluation_batches(lengths, tokens)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) <= 0).all()
    assert all(lengths[batch].sum() <= tokens or len(batch) == 1 for batch in batches)


def test_no_articles_make_no_batches() -> None:
    nothing = np.array([], dtype=np.int64)
    assert evaluation_batches(nothing) == []
    for tokens in (None, 100):
        assert training_batches(nothing, batch_size=4, batch_tokens=tokens, seed=0, epoch=0) == []


def test_windows_hold_many_batches() -> None:
    assert len(training_batches(np.full(WINDOW * 4, 9), batch_size=4, batch_tokens=None, seed=0, epoch=0)) == WINDOW


def cut(rows: list[int], lengths: np.ndarray, batch_size: int, batch_tokens: int | None) -> list[list[int]]:
    batches: list[list[int]] = []
    for row in rows:
        last = batches[-1] if batches else []
        tokens = lengths[last].sum() + lengths[row] if last else 0
        if last and (len(last) < batch_size if batch_tokens is None else tokens <= batch_tokens):
            last.append(row)
        else:
            batches.append([row])
    return batches


@pytest.mark.parametrize("limit", [{"batch_size": 3, "batch_tokens": None}, {"batch_size": 1, "batch_tokens": 100}])
@pytest.mark.parametrize("most", [60, 900])  # in the second case an article has more tokens than a batch
def test_batches_are_cut_from_windows_sorted_by_length_and_shuffled(limit: dict[str, Any], most: int) -> None:
    lengths, draw = np.random.default_rng(1).integers(most // 3, most, 700), np.random.default_rng([5, 2])
    shuffled = draw.permutation(700).tolist()
    size = 64 * (3 if limit["batch_tokens"] is None else max(1, int(100 / lengths.mean())))
    expected = []
    for start in range(0, 700, size):
        window = sorted(shuffled[start : start + size], key=lambda row: -lengths[row])  # equal lengths keep their order
        expected += cut(window, lengths, **limit)
    batches = training_batches(lengths, **limit, seed=5, epoch=2)
    assert [batch.tolist() for batch in batches] == [expected[i] for i in draw.permutation(len(expected))]


def test_evaluation_keeps_the_order_of_equal_lengths_and_takes_4096_tokens_a_batch() -> None:
    assert [len(batch) for batch in evaluation_batches(np.ones(5000, dtype=np.int64))] == [4096, 904]
    lengths = np.random.default_rng(0).integers(1, 3, 5000)
    found = np.concatenate(evaluation_batches(lengths)).tolist()
    assert found == sorted(range(5000), key=lambda row: -lengths[row])


def test_what_was_computed_before_comes_in_the_batchs_order() -> None:
    asked: list[Sequence[int]] = []

    def prefix(rows: Sequence[int]) -> torch.Tensor:
        asked.append(rows)
        return torch.ones(6, 2)

    batch = make_batch(articles(2, 3, 1), [2, 0, 1], prefix=prefix)
    assert asked == [[1, 0, 2]]
    assert batch.prefix is not None
    assert batch.prefix.tolist() == [[1.0, 1.0]] * 6
    moved = batch.to(torch.device("meta"))
    assert moved.prefix is not None
    assert moved.prefix.device.type == "meta"


def test_a_batch_is_its_articles_back_to_back_longest_first() -> None:
    batch = make_batch(articles(2, 3, 1, 3), [2, 0, 3, 1], labels=[7, 8, 9, 6])
    assert batch.rows == (3, 1, 0, 2)  # equal lengths keep the order given
    assert batch.lengths == (3, 3, 2, 1)
    assert batch.input_ids.tolist() == [300, 301, 302, 100, 101, 102, 0, 1, 200]
    assert batch.input_ids.dtype == torch.int64
    assert batch.labels is not None
    assert batch.labels.tolist() == [6, 8, 7, 9]
    assert batch.starts() == [0, 3, 6, 8]


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=30), data=st.data())
def test_a_batch_holds_what_its_rows_hold(lengths: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    encoded = articles(*lengths)
    batch = make_batch(encoded, rows)
    assert sorted(batch.rows) == sorted(rows)
    assert list(batch.lengths) == sorted((lengths[row] for row in rows), reverse=True)
    for row, piece in zip(batch.rows, batch.input_ids.split(list(batch.lengths)), strict=True):
        assert piece.tolist() == [100 * row + place for place in range(lengths[row])]
    assert batch.labels is None


def test_moving_a_batch_moves_all_its_tensors() -> None:
    batch = make_batch(articles(2, 1), [0, 1], labels=[0, 1]).to(torch.device("meta"))
    assert batch.labels is not None
    assert {batch.input_ids.device.type, batch.labels.device.type} == {"meta"}
    assert batch.rows == (0, 1)
    assert Batch(torch.tensor([]), (), ()).starts() == []
