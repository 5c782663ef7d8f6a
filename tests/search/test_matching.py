"""Weights and heads of fused adapters, held against what they stand for."""

from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from newslora.model.warm_head import solve
from newslora.search.matching import Head, blend_heads, match_heads, search_weights

GROUPS = np.array([0, 0, 1, 1])
Rows = tuple[np.ndarray, np.ndarray]


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def accuracy(head: Head, rows: Rows) -> float:
    return float(((rows[0] @ head[0].T + head[1]).argmax(axis=1) == rows[1]).mean())


def draw(count: int, seed: int) -> Rows:
    """Rows of four labels, whose means lie apart by less than their spread."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    means = np.random.default_rng(99).normal(size=(4, 40)) * 0.3
    return (means[labels] + rng.normal(size=(count, 40))).astype(np.float32), labels


@pytest.fixture(scope="module")
def head() -> Head:
    """Two heads of two labels each, learned from many rows, that never met: each has a scale and a shift of its own."""
    features, labels = draw(4000, 1)
    weight, bias = np.zeros((4, 40)), np.zeros(4)
    for group, (scale, shift) in enumerate(((3.0, 2.0), (0.5, -1.0))):
        mine = GROUPS[labels] == group
        own, own_bias = solve(features[mine], labels[mine] - 2 * group)
        weight[group == GROUPS], bias[group == GROUPS] = scale * own, scale * own_bias + shift
    return weight, bias


def test_weights_are_searched_one_at_a_time() -> None:
    tried = []

    def loss(weights: Any) -> float:
        tried.append(tuple(weights))
        return float((weights[0] - 0.75) ** 2 + (weights[1] - 0.25) ** 2)

    assert search_weights(loss, 2) == (0.75, 0.25)
    assert (0.0, 0.0) not in tried


def test_scales_and_shifts_lower_the_loss_that_they_are_fitted_to(head: Head) -> None:
    features, labels = draw(400, 2)
    logits = features @ head[0].T + head[1]
    match = match_heads(logits, labels, GROUPS)
    assert match.loss == pytest.approx(cross_entropy(logits * match.scales + match.shifts, labels))
    assert match.loss < cross_entropy(logits, labels) - 0.05
    assert match.share == 0
    for numbers in (match.scales, match.shifts):
        assert numbers[0] == numbers[1] != numbers[2] == numbers[3]
    for change in (0.99, 1.01):  # no better ones nearby
        assert match.loss <= cross_entropy(logits * match.scales * change + match.shifts, labels)


def test_logits_beside_get_a_scale_of_their_own(head: Head) -> None:
    features, labels = draw(400, 2)
    logits, beside = features @ head[0].T + head[1], np.eye(4)[labels] + np.random.default_rng(0).normal(size=(400, 4))
    match = match_heads(logits, labels, GROUPS, beside)
    moved = logits * match.scales + match.shifts + match.share * beside
    assert match.loss == pytest.approx(cross_entropy(moved, labels))
    assert match.loss < match_heads(logits, labels, GROUPS).loss


def test_a_blend_is_better_than_either_of_its_parts(head: Head) -> None:
    few, rows = draw(80, 3), draw(4000, 4)
    _, blended = blend_heads(*few, GROUPS, head)
    match = match_heads(few[0] @ head[0].T + head[1], few[1], GROUPS)
    joined = (match.scales[:, None] * head[0], match.scales * head[1] + match.shifts)
    assert accuracy(blended, rows) > max(accuracy(joined, rows), accuracy(solve(*few), rows)) + 0.02


def test_a_blends_loss_is_that_of_rows_left_out(head: Head) -> None:
    few, rows = draw(200, 3), draw(4000, 4)
    loss, (weight, bias) = blend_heads(*few, GROUPS, head)
    assert loss > cross_entropy(few[0] @ weight.T + bias, few[1]) + 0.1  # the discriminant has seen these rows
    assert loss == pytest.approx(cross_entropy(rows[0] @ weight.T + bias, rows[1]), abs=0.1)


def test_a_label_of_one_row_is_blended_too(head: Head) -> None:
    features, labels = draw(40, 5)
    kept = np.flatnonzero((labels != 3) | (np.cumsum(labels == 3) == 1))
    loss, (weight, bias) = blend_heads(features[kept], labels[kept], GROUPS, head)
    assert np.isfinite([loss, *bias, *weight.ravel()]).all()
