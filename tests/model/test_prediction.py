"""Answers for many articles: the same whatever the number of cores, in order, and without gradients."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.model.conftest import ragged_articles, random_model

from newslora.model.families import FAMILIES
from newslora.model.prediction import batches_for, cores_for, predict_logits, run_batches

LENGTHS = [3, 128, 1, 40, 40, 7, 90, 2, 33, 128, 5]
BATCHES = [np.array([row, row + 1, row + 2]) for row in range(0, 30, 3)]


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("kind", FAMILIES)
def test_two_cores_give_what_one_gives(kind: str, tiny_backbone: Callable[[str], Path]) -> None:
    model, encoded = random_model(tiny_backbone(kind), lora={"targets": "all-linear"}), ragged_articles(LENGTHS * 30)
    assert len(batches_for(encoded.lengths, 2)) > 4
    done: list[int] = []
    logits = predict_logits(model, encoded, done.append)
    assert sum(done) == len(encoded)
    np.testing.assert_allclose(logits, predict_logits(model, encoded, cores=1), rtol=1e-4, atol=1e-5)
    assert np.array_equal(logits, predict_logits(model, encoded))  # whichever core took which batch


@pytest.mark.usefixtures("two_cores")
def test_new_weights_are_folded_before_threads_read_them(tiny_backbone: Callable[[str], Path]) -> None:
    model, encoded = random_model(tiny_backbone("roberta")), ragged_articles(LENGTHS * 30)
    before = predict_logits(model, encoded)
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.add_(0.1)
    after = predict_logits(model, encoded)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, predict_logits(model, encoded, cores=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_every_batch_is_run_once_without_gradients_and_told_in_order(cores: int) -> None:
    rows: list[int] = []
    lock = threading.Lock()

    def run(batch: np.ndarray) -> None:
        assert not torch.is_grad_enabled()
        with lock:
            rows.extend(batch.tolist())

    sizes = [*BATCHES, np.array([30])]
    before = torch.get_num_threads()
    try:
        assert list(run_batches(run, sizes, cores)) == [3] * 10 + [1]
        assert torch.get_num_threads() == (before if cores == 1 else cores)
    finally:
        torch.set_num_threads(before)
    assert sorted(rows) == list(range(31))


def test_batches_run_side_by_side_each_on_one_thread_of_pytorchs() -> None:
    meeting = threading.Barrier(2, timeout=30)
    threads: list[int] = []
    first: list[int] = []

    def run(batch: np.ndarray) -> None:
        if not first:
            first.extend(batch)
            return
        threads.append(torch.get_num_threads())
        meeting.wait()  # which one batch alone would never leave

    try:
        list(run_batches(run, BATCHES[:7], 2))
    finally:
        torch.set_num_threads(1)
    assert threads == [1] * 6


def test_few_batches_come_in_turn_where_they_were_called() -> None:
    threads: list[threading.Thread] = []
    list(run_batches(lambda _: threads.append(threading.current_thread()), BATCHES[:4], 2))
    assert set(threads) == {threading.current_thread()}


def test_an_error_leaves_the_rest_and_the_threads_as_they_were() -> None:
    ran: list[int] = []

    def run(batch: np.ndarray) -> None:
        ran.append(int(batch[0]))
        if batch[0] == 6:
            raise ValueError("row 6")

    try:
        with pytest.raises(ValueError, match="row 6"):
            list(run_batches(run, [*BATCHES] * 20, 2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert len(ran) < 200


@pytest.mark.usefixtures("two_cores")
def test_the_padded_pass_has_all_cores_for_each_batch(tiny_backbone: Callable[[str], Path]) -> None:
    assert cores_for(random_model(tiny_backbone("roberta"))) == 2
    assert cores_for(random_model(tiny_backbone("roberta"), train={"engine": "padded"})) == 1
