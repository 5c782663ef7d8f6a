import json
import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from newslora.errors import NewsloraError
from newslora.evaluation.metrics import RESAMPLES, bootstrap_intervals, measure, top_confusions

NAMES = ("World", "Sports", "Business")


def drawn(rows: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)) + 2.0 * np.eye(classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def test_figures_worked_by_hand() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.7, 0.2], [0.2, 0.2, 0.6]])
    results = measure(probabilities, [0, 0, 1, 2], NAMES)
    assert results["n"] == 4
    assert results["accuracy"] == 0.75
    assert results["confusion_matrix"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert results["per_class"]["World"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert results["per_class"]["Sports"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}
    assert results["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert results["micro_f1"] == pytest.approx(0.75)
    assert results["weighted_f1"] == pytest.approx((2 * 2 / 3 + 2 / 3 + 1) / 4)
    assert results["log_loss"] == pytest.approx(-(math.log(0.8) + math.log(0.3) + math.log(0.7) + math.log(0.6)) / 4)


def test_values_are_plain() -> None:
    probabilities, labels = drawn(50)
    results = measure(probabilities, labels, NAMES)
    assert json.loads(json.dumps(results)) == results


def test_class_without_rows() -> None:
    probabilities, labels = drawn(60, classes=2)
    widened = np.column_stack([probabilities * 0.999, np.full(60, 0.001)])
    results = measure(widened, labels, NAMES)
    assert results["per_class"]["Business"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert results["macro_f1"] == pytest.approx(f1_score(labels, probabilities.argmax(axis=1), average="macro"))
    low, high = results["interval_95"]["macro_f1"]
    assert low <= results["macro_f1"] <= high


def test_one_class_only_in_the_table() -> None:
    results = measure(np.array([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1]]), [0, 0], NAMES)
    assert results["accuracy"] == 0.5
    assert results["confusion_matrix"] == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_rows_without_a_label_are_left_out() -> None:
    probabilities, labels = drawn(40)
    hidden = labels.copy()
    hidden[::4] = -1
    kept = hidden >= 0
    assert measure(probabilities, hidden, NAMES) == measure(probabilities[kept], labels[kept], NAMES)


def test_no_label_at_all() -> None:
    with pytest.raises(NewsloraError, match="no row has a label"):
        measure(np.full((2, 3), 1 / 3), [-1, -1], NAMES)


def test_single_precision_gives_no_warning() -> None:
    probabilities, labels = drawn(200)
    exact, rough = measure(probabilities, labels, NAMES), measure(probabilities.astype(np.float32), labels, NAMES)
    assert rough["accuracy"] == exact["accuracy"]
    assert rough["log_loss"] == pytest.approx(exact["log_loss"], abs=1e-6)


def test_drawing_cells_is_drawing_rows() -> None:
    probabilities, labels = drawn(300)
    predicted = probabilities.argmax(axis=1)
    results = measure(probabilities, labels, NAMES)
    generator, accuracy, macro = np.random.default_rng(7), [], []
    for _ in range(1000):
        rows = generator.integers(0, 300, 300)
        accuracy.append(accuracy_score(labels[rows], predicted[rows]))
        macro.append(f1_score(labels[rows], predicted[rows], average="macro"))
    assert results["interval_95"]["accuracy"] == pytest.approx(np.quantile(accuracy, [0.025, 0.975]), abs=0.008)
    assert results["interval_95"]["macro_f1"] == pytest.approx(np.quantile(macro, [0.025, 0.975]), abs=0.008)


def test_interval_is_of_the_width_that_theory_gives() -> None:
    matrix = np.array([[930, 70], [70, 930]])
    low, high = bootstrap_intervals(matrix)["accuracy"]
    half = 1.96 * math.sqrt(0.93 * 0.07 / 2000)
    assert (low, high) == (pytest.approx(0.93 - half, abs=0.001), pytest.approx(0.93 + half, abs=0.001))


def test_intervals_repeat_and_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.array([[30, 4, 1], [2, 40, 3], [0, 5, 20]])
    whole = bootstrap_intervals(matrix)
    monkeypatch.setattr("newslora.evaluation.metrics._CELLS_AT_ONCE", 9 * (RESAMPLES // 3))
    assert bootstrap_intervals(matrix) == whole
    assert bootstrap_intervals(matrix, seed=1) != whole


def test_top_confusions() -> None:
    labels = np.array([0, 0, 0, 0, 1, 2, -1])
    predicted = np.array([1, 1, 1, 1, 0, 2, 0])
    assert top_confusions(predicted, labels, NAMES, places=[11, 12, 13, 14, 15, 16, 17]) == [
        {"label": "World", "predicted": "Sports", "count": 4, "places": [11, 12, 13]},
        {"label": "Sports", "predicted": "World", "count": 1, "places": [15]},
    ]
    assert top_confusions(labels[:6], labels[:6], NAMES, places=range(6)) == []
