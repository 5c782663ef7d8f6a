"""Evaluation where an article carries several labels: thresholds tuned on validation rows, figures to match.

What is measured of one label an article (temperature, confusions, slices) has no meaning here and is left out.
"""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    hamming_loss,
    log_loss,
    precision_recall_curve,
    precision_recall_fscore_support,
)

from newslora.data.label_sets import Sets, written_set
from newslora.data.prepare import Prepared, Split
from newslora.errors import NewsloraError
from newslora.evaluation.card import write_card
from newslora.evaluation.metrics import RESAMPLES
from newslora.files import write_text, writing
from newslora.model.about import read_about
from newslora.model.budget import Counts
from newslora.model.thresholds import Thresholds, label_probabilities, load_thresholds, save_thresholds
from newslora.training.run_folder import RunFolder

TASK = "multi-label"
_AT_ONCE = 100  # resamples drawn at a time


def tune_thresholds(probabilities: np.ndarray, truth: np.ndarray) -> NDArray[np.float64]:
    """Return the threshold of each label that maximises its F1 (of equals, the one nearest 0.5), float64 [labels].

    Thresholds lie midway between two probabilities that occur. A label that no row carries keeps 0.5.

    Args:
        probabilities: Of rows that were not trained on, [rows, labels].
        truth: 1 where a row carries the label, of the same shape.
    """
    pairs = zip(np.asarray(probabilities, dtype=np.float64).T, np.asarray(truth).T, strict=True)
    return np.array([_best_threshold(scores, carried) for scores, carried in pairs])


def _best_threshold(scores: NDArray[np.float64], carried: np.ndarray) -> float:
    if not carried.any():
        return 0.5
    precision, recall, reached = precision_recall_curve(carried, scores)
    total = precision[:-1] + recall[:-1]  # the last pair is precision 1 at recall 0, and has no threshold
    f1 = np.divide(2 * precision[:-1] * recall[:-1], total, out=np.zeros_like(total), where=total > 0)
    below = np.concatenate([[0.0], reached[:-1]])
    middles = (below + reached) / 2
    best = np.flatnonzero(np.isclose(f1, f1.max()))
    return float(middles[best[np.argmin(np.abs(middles[best] - 0.5))]])


def measure_sets(
    probabilities: np.ndarray, truth: np.ndarray, names: Sequence[str], thresholds: Thresholds
) -> dict[str, Any]:
    """Measure predicted labels against those that articles carry, with scikit-learn.

    Args:
        probabilities: Each label's own, [rows, labels].
        truth: 1 where a row carries the label, of the same shape.
        names: The labels' names, in order.
        thresholds: From where on a label is predicted.

    Returns:
        Plain values, ready for JSON: ``task``, ``n``, ``accuracy`` (subset accuracy: every label right), ``micro_f1``,
        ``macro_f1``, ``hamming_loss``, ``log_loss`` (mean binary cross-entropy), ``per_class`` with each label's
        ``threshold``, ``labels``, ``interval_95`` and how it was found. In a hierarchy, where articles carry the
        topics above theirs, ``micro_f1`` is the hierarchical F1 of Kiritchenko et al. 2005, section 3.
    """
    carried, predicted = np.asarray(truth) > 0, thresholds.carried(probabilities)
    figures = precision_recall_fscore_support(carried, predicted, zero_division=0)
    rows = zip(names, *figures, thresholds.values, strict=True)
    return {
        "task": TASK,
        "n": len(carried),
        "accuracy": float(accuracy_score(carried, predicted)),
        **{f"{k}_f1": float(f1_score(carried, predicted, average=k, zero_division=0)) for k in ("micro", "macro")},
        "hamming_loss": float(hamming_loss(carried, predicted)),
        "log_loss": float(log_loss(carried.ravel(), np.asarray(probabilities).ravel(), labels=[False, True])),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s), "threshold": float(t)}
            for name, p, r, f, s, t in rows
        },
        "labels": list(names),
        "interval_95": bootstrap_sets(carried, predicted),
        "interval_method": f"percentile bootstrap over rows, {RESAMPLES} resamples, seed 0",
    }


def bootstrap_sets(carried: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Return 95% percentile-bootstrap intervals (Efron 1979) of subset accuracy, micro- and macro-F1.

    Args:
        carried: Whether a row carries a label, [rows, labels].
        predicted: Whether it is predicted to, of the same shape.
    """
    generator, n = np.random.default_rng(0), len(carried)
    right, hits = (carried == predicted).all(axis=1), (carried & predicted).astype(np.float64)
    either = carried.astype(np.float64) + predicted
    drawn: dict[str, list[float]] = {"accuracy": [], "micro_f1": [], "macro_f1": []}
    for _ in range(0, RESAMPLES, _AT_ONCE):
        times = generator.multinomial(n, np.full(n, 1 / n), size=_AT_ONCE).astype(np.float64)
        twice, all_of = 2 * times @ hits, times @ either
        f1 = np.divide(twice, all_of, out=np.zeros_like(twice), where=all_of > 0)
        drawn["accuracy"] += (times @ right / n).tolist()
        drawn["micro_f1"] += (twice.sum(axis=1) / np.maximum(all_of.sum(axis=1), 1)).tolist()
        drawn["macro_f1"] += f1.mean(axis=1).tolist()
    return {name: [float(bound) for bound in np.quantile(values, [0.025, 0.975])] for name, values in drawn.items()}


def finish_sets(
    run: RunFolder,
    data: Prepared,
    kinds: Sets,
    validation: np.ndarray,
    answer: Callable[[Split], tuple[np.ndarray, Counts]],
) -> None:
    """Write what stands in a run folder after training: thresholds, evaluation, model card.

    Args:
        run: A run whose adapter is written.
        data: What it was trained on.
        kinds: Which labels each kind of articles carries.
        validation: Logits of the validation rows.
        answer: Gives a split's logits, and the model's parameters.
    """
    truth, settings = kinds[data.validation.labels], run.config().data
    tuned, half = tune_thresholds(label_probabilities(validation), truth), np.full(len(data.names), 0.5)
    at_half, thresholds = (
        Thresholds.of(values, data.names, settings.separator, settings.hierarchy) for values in (half, tuned)
    )
    measured = [measure_sets(label_probabilities(validation), truth, data.names, t) for t in (at_half, thresholds)]
    record = {f"macro_f1_{name}": m["macro_f1"] for name, m in zip(("at_half", "tuned"), measured, strict=True)}
    save_thresholds(run.adapter, data.names, thresholds, record | {"n": len(truth)})
    if data.test is not None:
        logits, counts = answer(data.test)
        test = data.test
        evaluate_sets(run, logits, kinds[test.labels], test.places, test.source, counts)
    write_card(run, data.report)


def evaluate_sets(
    run: RunFolder,
    logits: np.ndarray,
    truth: np.ndarray,
    places: Sequence[int],
    source: str,
    counts: Counts,
    output: Path | None = None,
) -> dict[str, Any]:
    """Evaluate logits at the run's thresholds, and write ``evaluation.json`` and ``predictions.csv``.

    Args:
        run: The run that the logits come from.
        logits: Scores [rows, labels].
        truth: 1 where a row carries the label, of the same shape.
        places: Each row's line in its file.
        source: The table's path or id, for the record.
        counts: The model's parameters.
        output: Folder for the results; the run folder when not given.

    Returns:
        The content of ``evaluation.json``: what :func:`measure_sets` returns, ``source`` and the parameters.

    Raises:
        NewsloraError: The run's thresholds are damaged, or the results cannot be written.
    """
    about = read_about(run.adapter)
    thresholds = load_thresholds(run.adapter, about)
    if thresholds is None:
        raise NewsloraError(f"{run.path}: was trained on one label an article; its data.multi_label was changed")
    probs = label_probabilities(logits)
    parameters = {"trainable_parameters": counts.trainable, "total_parameters": counts.total}
    results = {"source": source, **measure_sets(probs, truth, about.names, thresholds), **parameters}
    folder = output or run.path
    _write_predictions(folder / "predictions.csv", probs, truth, about.names, places, thresholds)
    write_text(folder / "evaluation.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return results


def _write_predictions(
    path: Path,
    probs: np.ndarray,
    truth: np.ndarray,
    names: Sequence[str],
    places: Sequence[int],
    thresholds: Thresholds,
) -> None:
    predicted, separator = thresholds.carried(probs), thresholds.separator
    with writing(path) as staged, staged.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["place", "labels", "predicted", *(f"p_{name}" for name in names)])
        for place, carried, found, row in zip(places, truth > 0, predicted, probs.tolist(), strict=True):
            sets = (written_set(one, names, separator) for one in (carried, found))
            writer.writerow([place, *sets, *row])
