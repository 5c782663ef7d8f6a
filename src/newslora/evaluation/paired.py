"""Whether one classifier is better than another on the same rows: paired tests, over rows and over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_matrix

from newslora.evaluation.metrics import macro_f1

RESAMPLES = 10_000
_CELLS_AT_ONCE = 4_000_000
LEVEL = 0.95


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """Return McNemar's exact test (1947; Dietterich 1998, section 3.1) on the rows that only one side gets right.

    Args:
        first: Whether the one is right, bool [rows].
        second: Whether the other is.

    Returns:
        ``only_first_right``, ``only_second_right`` and the two-sided ``p``.
    """
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(stats.binomtest(one, one + other).pvalue) if one + other else 1.0
    return {"only_first_right": one, "only_second_right": other, "p": p}


def resample(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw rows with replacement, the same for every column, and measure each column on each draw (Efron 1979).

    Rows with the same label and the same predictions count alike, so their numbers are drawn: a multinomial draw, the
    same distribution as drawing the rows one by one.

    Args:
        truth: True classes, int64 [rows].
        predicted: Predictions of every run, int64 [rows, runs].
        classes: Number of classes.
        seed: Of the draws.

    Returns:
        Accuracy and macro-F1, float64 [``RESAMPLES``, runs] each.
    """
    kinds, counts = np.unique(np.column_stack([truth, predicted]), axis=0, return_counts=True)
    cells = [_one_hot(kinds[:, 0] * classes + column, classes**2) for column in kinds[:, 1:].T]
    generator, n = np.random.default_rng(seed), len(truth)
    shape = (RESAMPLES, predicted.shape[1])
    accuracy, f1 = np.empty(shape), np.empty(shape)
    block = max(1, _CELLS_AT_ONCE // max(len(kinds), classes**2))
    for start in range(0, RESAMPLES, block):
        part = slice(start, min(start + block, RESAMPLES))
        draws = generator.multinomial(n, counts / n, size=part.stop - start)
        for run, cell in enumerate(cells):
            matrices = (draws @ cell).reshape(-1, classes, classes)
            accuracy[part, run] = np.trace(matrices, axis1=1, axis2=2) / n
            f1[part, run] = macro_f1(matrices)
    return accuracy, f1


def _one_hot(cells: NDArray[np.int64], width: int) -> csr_matrix:
    return csr_matrix((np.ones(len(cells), dtype=np.int64), (np.arange(len(cells)), cells)), shape=(len(cells), width))


def interval(draws: NDArray[np.float64]) -> list[float]:
    """Return the 95% percentile interval of draws."""
    return [float(bound) for bound in np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def bootstrap_p(differences: NDArray[np.float64]) -> float:
    """Return the two-sided bootstrap p of a difference: twice the rarer side of 0 (Davison & Hinkley 1997, 4.2)."""
    sides = ((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (1 + min(sides)) / (1 + len(differences))))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation (n - 1) and Student's 95% interval of the mean, of one figure over seeds."""
    numbers = np.asarray(values, dtype=np.float64)
    mean, sd = float(numbers.mean()), float(numbers.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(numbers) - 1) * sd / np.sqrt(len(numbers)))
    return {"mean": mean, "sd": sd, "interval_95": [mean - half, mean + half], "values": numbers.tolist()}


def over_seeds(first: Sequence[float], second: Sequence[float], *, paired: bool) -> dict[str, Any]:
    """Test whether two settings differ by more than their seeds do.

    Args:
        first: A figure of the one, a value a seed; a single value where the seed changes nothing.
        second: The same of the other; at least one side has several.
        paired: Whether both sides have the same seeds in the same order.

    Returns:
        ``test`` (its name) and the two-sided ``p``.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(one) > 1 and len(other) > 1 and not paired:
        name, samples = f"Welch's t over {len(one)} and {len(other)} seeds", (one, other)
    else:
        name = f"{'paired t' if paired else 't'} over {max(len(one), len(other))} seeds"
        samples = (one - other, np.zeros(1))
    if all(np.ptp(sample) < 1e-12 for sample in samples):  # no spread that a t could divide by
        p = float(abs(np.mean(samples[0]) - np.mean(samples[1])) < 1e-12)
    elif len(samples[1]) == 1:
        p = float(stats.ttest_1samp(samples[0], 0.0).pvalue)
    else:
        p = float(stats.ttest_ind(*samples, equal_var=False).pvalue)
    return {"test": name, "p": p}
