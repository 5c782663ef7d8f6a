"""How far a confidence can be believed: calibration errors, the temperature, and what abstaining would buy."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from newslora.model.temperature import probabilities, save_calibration

BINS = 15
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that minimises the log-loss of held-out rows (Guo et al. 2017, section 4.2).

    The loss falls without end when every row is right (any confidence is then too small), so such rows say nothing
    about the temperature, and it stays 1.

    Args:
        logits: Scores of rows that were not trained on ``[rows, labels]``.
        labels: True classes ``[rows]``.

    Returns:
        A temperature between 0.05 and 20.
    """
    truth = np.asarray(labels)
    if bool((logits.argmax(axis=1) == truth).all()):
        return 1.0

    def loss(log_temperature: float) -> float:
        return _log_loss(probabilities(logits, float(np.exp(log_temperature))), truth)

    # On the logarithm's scale halving and doubling are equally far, and the loss has one minimum.
    best = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def calibrate(adapter: Path, logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature on validation rows and save it with the adapter, which applies it from then on.

    Args:
        adapter: The adapter's folder; gets ``calibration.json``.
        logits: Validation logits ``[rows, labels]``.
        labels: Their classes ``[rows]``.

    Returns:
        The temperature.
    """
    truth = np.asarray(labels)
    temperature = fit_temperature(logits, truth)
    before, after = probabilities(logits), probabilities(logits, temperature)
    record = {
        "ece_before": calibration_error(before, truth),
        "ece_after": calibration_error(after, truth),
        "log_loss_before": _log_loss(before, truth),
        "log_loss_after": _log_loss(after, truth),
        "n": len(truth),
    }
    save_calibration(adapter, temperature, record)
    return temperature


def reliability_bins(probs: np.ndarray, labels: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """Sort rows by confidence into equal-width bins and compare each bin's confidence with its accuracy.

    Args:
        probs: Class probabilities ``[rows, labels]``.
        labels: True classes ``[rows]``.
        bins: Number of bins; bin ``i`` of ``bins`` holds confidences in ``(i / bins, (i + 1) / bins]``.

    Returns:
        One object a bin, in order: ``low``, ``high``, ``n``, and the means ``confidence`` and ``accuracy`` (``None``
        for an empty bin).
    """
    confidence, correct = _confidence(probs, labels)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    return [
        {"low": float(edges[i]), "high": float(edges[i + 1]), **_bin(confidence[place == i], correct[place == i])}
        for i in range(bins)
    ]


def calibration_error(probs: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error over equal-width bins (Guo et al. 2017, equation 3)."""
    return _weighted_gap(reliability_bins(probs, labels, bins), len(labels))


def adaptive_calibration_error(probs: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error over bins of equally many rows (Nguyen & O'Connor 2015).

    Equal-width bins put nearly every row of an accurate classifier into the last bin; these do not.
    """
    confidence, correct = _confidence(probs, labels)
    order = np.argsort(confidence, kind="stable")
    groups = [_bin(confidence[rows], correct[rows]) for rows in np.array_split(order, bins)]
    return _weighted_gap(groups, len(order))


def risk_coverage(probs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Say how the error rate falls when the model may abstain on its least confident rows (Geifman & El-Yaniv 2017).

    Args:
        probs: Class probabilities ``[rows, labels]``.
        labels: True classes ``[rows]``.

    Returns:
        ``aurc``, the mean error rate over all coverages (smaller is better); ``points``: for each of several coverages
        the lowest ``confidence`` still answered and the ``error_rate`` of the rows answered; and ``curve``: pairs of
        coverage and error rate at every hundredth, for the figure.
    """
    confidence, correct = _confidence(probs, labels)
    order = np.argsort(-confidence, kind="stable")
    risk = np.cumsum(~correct[order]) / np.arange(1, len(order) + 1)
    answered = [max(1, round(coverage * len(order))) for coverage in COVERAGES]
    hundredths = np.unique(np.ceil(np.linspace(0.01, 1.0, 100) * len(order)).astype(int))
    points = [
        {"coverage": coverage, "confidence": float(confidence[order[n - 1]]), "error_rate": float(risk[n - 1])}
        for coverage, n in zip(COVERAGES, answered, strict=True)
    ]
    curve = [[float(n / len(order)), float(risk[n - 1])] for n in hundredths]
    return {"aurc": float(risk.mean()), "points": points, "curve": curve}


def _log_loss(probs: np.ndarray, labels: np.ndarray) -> float:
    return float(log_loss(labels, probs, labels=np.arange(probs.shape[1])))


def _confidence(probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return probs.max(axis=1), probs.argmax(axis=1) == np.asarray(labels)


def _bin(confidence: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    if len(confidence) == 0:
        return {"n": 0, "confidence": None, "accuracy": None}
    return {"n": len(confidence), "confidence": float(confidence.mean()), "accuracy": float(correct.mean())}


def _weighted_gap(groups: list[dict[str, Any]], n: int) -> float:
    filled = [group for group in groups if group["n"]]
    return float(sum(group["n"] * abs(group["accuracy"] - group["confidence"]) for group in filled) / n)
