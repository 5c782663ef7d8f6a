"""How well a run does on parts of a table: short and long articles, agency news, rows a filter would have dropped."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from newslora.config import DataConfig
from newslora.data.cleaning import Cleaner
from newslora.data.filters import filter_rows

Slices = Iterator[tuple[str, NDArray[np.int64]]]
_QUARTILES: Final = (0.25, 0.5, 0.75)


def measure_slices(
    texts: Sequence[str], tokens: NDArray[np.int64], labels: NDArray[np.int64], logits: np.ndarray, config: DataConfig
) -> dict[str, Any]:
    """Measure a run on parts of a table; the parts of one kind make up the whole.

    Kinds: ``length`` (quarters by number of words), ``agency`` (whether a news agency is named in the text as the model
    reads it), ``filter`` (kept, or by which of the training filters the row would have been dropped).

    Args:
        texts: Repaired texts.
        tokens: Tokens of each before truncation, int64 [rows].
        labels: True classes, int64 [rows]; rows with -1 are left out.
        logits: Scores [rows, labels].
        config: The filters' bounds.

    Returns:
        Entries of ``evaluation.json``: ``slices``, one object a part with rows (``by``, ``slice``, ``n``, ``accuracy``,
        ``macro_f1``, ``interval_95``), and ``slice_interval_method``. The interval is Wilson's (1927), which holds for
        few rows too, where the bootstrap of a part without mistakes would have no width.
    """
    known = np.flatnonzero(labels >= 0)
    texts, truth = [texts[row] for row in known.tolist()], labels[known]
    predicted = logits[known].argmax(axis=1)
    kinds = {
        "length": _lengths(texts),
        "agency": _agency(texts),
        "filter": _filters(texts, tokens[known], truth, config),
    }
    parts = [
        {"by": kind, "slice": name, **_measure(truth[rows], predicted[rows])}
        for kind, slices in kinds.items()
        for name, rows in slices
        if len(rows)
    ]
    return {"slices": parts, "slice_interval_method": "Wilson score interval of the accuracy"}


def _lengths(texts: Sequence[str]) -> Slices:
    words = np.array([len(text.split()) for text in texts])
    quarter = np.searchsorted(np.quantile(words, _QUARTILES), words)
    for number in np.unique(quarter):
        rows = np.flatnonzero(quarter == number)
        yield f"{words[rows].min()} to {words[rows].max()} words", rows


def _agency(texts: Sequence[str]) -> Slices:
    without = Cleaner(drop_agency=True)
    named = np.array([without.repair(text) != text for text in texts])
    yield "named", np.flatnonzero(named)
    yield "not named", np.flatnonzero(~named)


def _filters(texts: Sequence[str], tokens: NDArray[np.int64], labels: NDArray[np.int64], config: DataConfig) -> Slices:
    filtered = filter_rows(texts, labels, tokens, config)
    yield "kept", filtered.kept
    yield from filtered.dropped.items()


def _measure(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, Any]:
    right = int((truth == predicted).sum())
    interval = binomtest(right, len(truth)).proportion_ci(method="wilson")
    return {
        "n": len(truth),
        "accuracy": right / len(truth),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        "interval_95": {"accuracy": [float(interval.low), float(interval.high)]},
    }
