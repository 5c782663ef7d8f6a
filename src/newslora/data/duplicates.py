"""Rows that repeat each other, to the letter or nearly."""

import re
from collections.abc import Hashable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIMILARITY: Final = 0.8
"""Jaccard similarity of two texts' word shingles from which on one nearly repeats the other."""
_SHINGLE: Final = 3  # words
_BANDS: Final = 16
_BAND_ROWS: Final = 4
_NOT_ALPHANUMERIC: Final = re.compile(r"[\W_]+")
_WORD: Final = re.compile(r"[^\W_]+")

Hashes = NDArray[np.uint64]


def normalise(text: str) -> str:
    """Return the text's letters and digits alone, casefolded; the text itself if it has none."""
    return _NOT_ALPHANUMERIC.sub("", text.casefold()) or text


def first_alike(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Return for each key the position of the first equal one, int64 [keys]."""
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)], dtype=np.int64)


def first_near(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return for each text the position of the first one it nearly repeats, directly or through others, int64 [texts].

    Candidates are found by MinHash (Broder 1997) with banding: 16 bands of 4 rows find a pair of similarity 0.8 with
    probability 0.9998. Of the texts that share a band, each is compared with the first and with the one before it, so
    the work grows linearly. A pair counts when the exact Jaccard similarity of its sets of 3-word shingles is at least
    :data:`SIMILARITY`.
    """
    shingles, offsets = _shingle(texts)
    signatures = _signatures(shingles, offsets)
    candidates = {pair for band in range(_BANDS) for pair in _pairs(signatures[:, band])}
    near = [(a, b) for a, b in sorted(candidates) if _similarity(shingles, offsets, a, b) >= SIMILARITY]
    a, b = np.array(near, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(len(texts), len(texts)))
    groups = connected_components(graph, directed=False)[1]
    return first_alike(groups.tolist())


def _shingle(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of all texts' shingles back to back, uint64 [shingles], and where each text's start."""
    numbers: dict[str, int] = {}
    split = (_WORD.findall(text.casefold()) or [text] for text in texts)
    words = [[numbers.setdefault(word, len(numbers)) for word in row] for row in split]
    # A text shorter than a shingle is one shingle, filled up with the same mark.
    padded = [row + [len(numbers)] * (_SHINGLE - len(row)) for row in words]
    lengths = np.array([len(row) for row in padded], dtype=np.int64)
    flat = np.fromiter((word for row in padded for word in row), dtype=np.int64, count=int(lengths.sum()))
    hashes = np.random.default_rng(0).integers(1 << 63, size=(_SHINGLE, len(numbers) + 1), dtype=np.uint64)
    mixed = sum((hashes[i][np.roll(flat, -i)] for i in range(_SHINGLE)), start=np.zeros(len(flat), dtype=np.uint64))
    last = np.cumsum(lengths)
    inside = np.ones(len(flat), dtype=bool)
    for back in range(1, _SHINGLE):
        inside[last - back] = False  # these shingles would run into the next text
    return mixed[inside], np.concatenate([[0], np.cumsum(lengths - _SHINGLE + 1)])


def _signatures(shingles: Hashes, offsets: NDArray[np.int64]) -> Hashes:
    """Return each text's bands, uint64 [texts, bands]: a mix of the least values under 4 random maps a band."""
    generator = np.random.default_rng(1)
    bands = np.zeros((len(offsets) - 1, _BANDS), dtype=np.uint64)
    for band in range(_BANDS):
        for _ in range(_BAND_ROWS):
            factor, summand = generator.integers(1 << 63, size=2, dtype=np.uint64)
            least = np.minimum.reduceat(shingles * (factor | np.uint64(1)) + summand, offsets[:-1])
            bands[:, band] = (bands[:, band] ^ least) * np.uint64(0x9E3779B97F4A7C15)
    return bands


def _pairs(band: Hashes) -> Iterator[tuple[int, int]]:
    """Yield (first, row) and (previous, row) of the rows that share a value, in ascending order within a value."""
    order = np.argsort(band, kind="stable")
    same = band[order][1:] == band[order][:-1]
    starts = np.maximum.accumulate(np.where(np.concatenate([[False], same]), 0, np.arange(len(order))))
    for at in np.flatnonzero(same) + 1:
        row = int(order[at])
        yield int(order[starts[at]]), row
        yield int(order[at - 1]), row


def _similarity(shingles: Hashes, offsets: NDArray[np.int64], a: int, b: int) -> float:
    first, second = (set(shingles[offsets[row] : offsets[row + 1]].tolist()) for row in (a, b))
    return len(first & second) / len(first | second)
