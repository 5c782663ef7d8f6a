"""Draws of rows that keep each class's share; a pure function of labels, number and seed."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""Positions of rows in a table, ascending."""


def draw_stratified(labels: NDArray[np.int64], count: int, seed: int) -> Rows:
    """Draw ``count`` rows, each class by its share (largest remainder, at least one row where ``count`` allows).

    Args:
        labels: Class of each row, int64 [rows].
        count: Rows to draw; all of them when there are no more.
        seed: Of the draw.

    Returns:
        Positions of the drawn rows, ascending, int64 [min(count, rows)].
    """
    sizes = np.bincount(labels)
    return _draw(labels, _quotas(sizes, min(count, len(labels))), seed)


def split_stratified(labels: NDArray[np.int64], share: float, seed: int) -> tuple[Rows, Rows]:
    """Set aside ``share`` of the rows, drawn by class; every class keeps a row to train on.

    Args:
        labels: Class of each row, int64 [rows].
        share: Of the rows that are set aside, in (0, 1).
        seed: Of the draw.

    Returns:
        Positions of the rows kept and of those set aside, ascending.
    """
    spare = np.maximum(np.bincount(labels) - 1, 0)
    count = min(round(share * len(labels)) or 1, spare.sum())
    aside = _draw(labels, _quotas(spare, count) if count else spare, seed)
    return np.setdiff1d(np.arange(len(labels)), aside, assume_unique=True), aside


def _quotas(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    exact = count * sizes / sizes.sum()
    quotas: NDArray[np.int64] = np.maximum(np.floor(exact).astype(np.int64), sizes > 0)
    while quotas.sum() > count:
        quotas[np.argmax(quotas)] -= 1
    while quotas.sum() < count:
        quotas[np.argmax(np.where(quotas < sizes, exact - quotas, -np.inf))] += 1
    return quotas


def _draw(labels: NDArray[np.int64], quotas: NDArray[np.int64], seed: int) -> Rows:
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(labels == k))[:quota] for k, quota in enumerate(quotas)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)
