"""The figures of an evaluation, from probabilities and labels: scikit-learn's, with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, precision_recall_fscore_support

from newslora.errors import NewsloraError
from newslora.evaluation.calibration import (
    adaptive_calibration_error,
    calibration_error,
    reliability_bins,
    risk_coverage,
)

RESAMPLES = 2000
_CELLS_AT_ONCE = 4_000_000


def measure(probabilities: np.ndarray, labels: np.ndarray | Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Measure predictions against labels.

    Rows labelled -1 have no label and are left out. As scikit-learn does by default, the averaged F1 figures run over
    the classes that occur among the labels or the predictions.

    Args:
        probabilities: Class probabilities ``[rows, labels]``; the greatest is the prediction (the first, of equals).
        labels: True classes ``[rows]``, -1 for none.
        names: The classes' names, in order.

    Returns:
        Plain values, ready for JSON: ``n``, ``accuracy``, ``macro_f1``, ``micro_f1``, ``weighted_f1``, ``per_class``,
        ``confusion_matrix`` (a row for each true class, a column for each predicted one), ``log_loss``, ``ece``,
        ``adaptive_ece``, ``reliability``, ``risk_coverage``, ``interval_95`` and how it was found.

    Raises:
        NewsloraError: No row has a label.
    """
    truth = np.asarray(labels, dtype=np.int64)
    probs, truth = np.asarray(probabilities)[truth >= 0], truth[truth >= 0]
    if len(truth) == 0:
        raise NewsloraError("nothing to measure: no row has a label; give a table with labelled rows")
    predicted = probs.argmax(axis=1)
    matrix = confusion_matrix(truth, predicted, labels=np.arange(len(names)))
    return {
        "n": len(truth),
        "accuracy": float(accuracy_score(truth, predicted)),
        **_averaged_f1(truth, predicted),
        "per_class": _per_class(truth, predicted, names),
        "labels": list(names),
        "confusion_matrix": matrix.tolist(),
        "log_loss": float(log_loss(truth, probs, labels=np.arange(len(names)))),
        "ece": calibration_error(probs, truth),
        "adaptive_ece": adaptive_calibration_error(probs, truth),
        "reliability": reliability_bins(probs, truth),
        "risk_coverage": risk_coverage(probs, truth),
        "interval_95": bootstrap_intervals(matrix),
        "interval_method": f"percentile bootstrap over rows, {RESAMPLES} resamples, seed 0",
    }


def bootstrap_intervals(matrix: np.ndarray, seed: int = 0) -> dict[str, list[float]]:
    """Return 95% percentile-bootstrap intervals (Efron 1979) of accuracy and macro-F1.

    Both figures depend on the confusion matrix alone, and drawing ``n`` rows with replacement and counting them into
    it is a multinomial draw of its cells. So cells are drawn instead of rows: the same distribution, much faster.

    Args:
        matrix: Counts ``[labels, labels]``, a row for each true class.
        seed: Seed of the resampling.

    Returns:
        ``{"accuracy": [low, high], "macro_f1": [low, high]}``.
    """
    generator, classes, n = np.random.default_rng(seed), len(matrix), int(matrix.sum())
    accuracy, f1 = np.empty(RESAMPLES), np.empty(RESAMPLES)
    # Successive draws from one generator equal one large draw; blocks bound the memory with many classes.
    block = max(1, _CELLS_AT_ONCE // classes**2)
    for start in range(0, RESAMPLES, block):
        part = slice(start, min(start + block, RESAMPLES))
        draws = generator.multinomial(n, matrix.ravel() / n, size=part.stop - start).reshape(-1, classes, classes)
        accuracy[part] = np.trace(draws, axis1=1, axis2=2) / n
        f1[part] = macro_f1(draws)
    return {"accuracy": _interval(accuracy), "macro_f1": _interval(f1)}


def top_confusions(
    predicted: np.ndarray, labels: np.ndarray, names: Sequence[str], places: Sequence[int], most: int = 10
) -> list[dict[str, Any]]:
    """Return the commonest mistakes, commonest first.

    Args:
        predicted: Predicted classes ``[rows]``.
        labels: True classes ``[rows]``, -1 for none.
        names: The classes' names, in order.
        places: Each row's line in its file.
        most: Pairs returned at most.

    Returns:
        One object a pair: ``label``, ``predicted``, ``count`` and the ``places`` of the first three.
    """
    rows = np.flatnonzero((predicted != labels) & (labels >= 0))
    pairs, which, counts = np.unique(
        labels[rows] * len(names) + predicted[rows], return_inverse=True, return_counts=True
    )
    return [
        {
            "label": names[pairs[i] // len(names)],
            "predicted": names[pairs[i] % len(names)],
            "count": int(counts[i]),
            "places": [int(places[row]) for row in rows[which == i][:3]],
        }
        for i in np.argsort(-counts, kind="stable")[:most]
    ]


def _averaged_f1(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {
        f"{average}_f1": float(f1_score(truth, predicted, average=average, zero_division=0))
        for average in ("macro", "micro", "weighted")
    }


def _per_class(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    figures = precision_recall_fscore_support(truth, predicted, labels=np.arange(len(names)), zero_division=0)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(names, *figures, strict=True)
    }


def macro_f1(matrices: np.ndarray) -> np.ndarray:
    """Return the macro-F1, float64 [matrices], of confusion matrices [matrices, labels, labels]."""
    # F1 = 2 TP / (rows of the class + predictions of it); a class with neither does not count.
    present = matrices.sum(axis=2) + matrices.sum(axis=1)
    right = 2 * np.diagonal(matrices, axis1=1, axis2=2)
    f1 = np.divide(right, present, out=np.zeros(present.shape), where=present > 0)
    macro: np.ndarray = f1.sum(axis=1) / (present > 0).sum(axis=1)
    return macro


def _interval(values: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.quantile(values, [0.025, 0.975])]
