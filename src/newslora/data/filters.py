"""Which training rows are left out, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from newslora.config import DataConfig
from newslora.data.duplicates import first_alike, first_near, normalise
from newslora.data.splits import Rows

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Filtered:
    """What the filters left and took.

    Attributes:
        kept: Positions of the rows left, ascending.
        dropped: Positions of the rows taken, by filter, in the order in which the filters ran.
    """

    kept: Rows
    dropped: dict[str, Rows] = field(default_factory=dict)


def filter_rows(
    texts: Sequence[str],
    labels: NDArray[np.int64],
    tokens: NDArray[np.int64],
    config: DataConfig,
    flagged: Rows | None = None,
) -> Filtered:
    """Take out the rows that would teach little or wrong; each filter sees what the ones before it left.

    In order: ``flagged`` (where such rows are given); ``empty``; ``non_letters`` (share of letters below
    ``min_letters``); ``too_short`` and ``too_long``; ``label_conflict`` (all rows of a text that stands under two
    labels); ``duplicate`` and ``near_duplicate`` (all but the first of the rows alike).

    Args:
        texts: Repaired texts.
        labels: Class of each row, int64 [rows].
        tokens: Tokens of each row before truncation, special tokens included, int64 [rows].
        config: Gives the bounds.
        flagged: Positions of the rows that an audit says to drop.
    """
    keys = first_alike([normalise(text) for text in texts])
    filters: dict[str, Callable[[Rows], Mask]] = {}
    if flagged is not None:
        filters["flagged"] = lambda rows: np.isin(rows, flagged)
    filters |= {
        "empty": lambda rows: np.array([not texts[row] for row in rows], dtype=bool),
        "non_letters": lambda rows: np.array([_letters(texts[row]) < config.min_letters for row in rows], dtype=bool),
        "too_short": lambda rows: tokens[rows] < config.min_tokens,
        "too_long": lambda rows: tokens[rows] > config.max_tokens,
        "label_conflict": lambda rows: _in_conflict(first_alike(keys[rows].tolist()), labels[rows]),
        "duplicate": lambda rows: first_alike(keys[rows].tolist()) != np.arange(len(rows)),
    }
    if config.near_duplicates:
        filters["near_duplicate"] = lambda rows: first_near([texts[row] for row in rows]) != np.arange(len(rows))
    kept, dropped = np.arange(len(texts), dtype=np.int64), {}
    for name, mark in filters.items():
        taken = mark(kept) if len(kept) else np.zeros(0, dtype=bool)
        dropped[name], kept = kept[taken], kept[~taken]
    return Filtered(kept, dropped)


def _letters(text: str) -> float:
    """Return the share of letters among the characters that are not blank."""
    return sum(map(str.isalpha, text)) / max(1, len(text) - text.count(" "))


def _in_conflict(first: NDArray[np.int64], labels: NDArray[np.int64]) -> Mask:
    differing = np.zeros(len(first), dtype=bool)
    np.logical_or.at(differing, first, labels != labels[first])
    return differing[first]
