import numpy as np
import pytest
from sklearn.metrics import f1_score

from newslora.evaluation.multilabel import bootstrap_sets, measure_sets, tune_thresholds
from newslora.model.thresholds import Thresholds


def draw(rows: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = (generator.random((rows, labels)) < np.linspace(0.1, 0.5, labels)).astype(np.float32)
    return 1 / (1 + np.exp(-(2 * truth - 2 + generator.normal(size=truth.shape)))), truth


def test_no_threshold_has_a_better_f1() -> None:
    probs, truth = draw(100, 4)
    tuned = tune_thresholds(probs, truth)
    for label, threshold in enumerate(tuned):
        every = [f1_score(truth[:, label], probs[:, label] >= t) for t in np.unique(probs[:, label])]
        assert f1_score(truth[:, label], probs[:, label] >= threshold) == pytest.approx(max(every))
        assert not np.isin(threshold, probs[:, label])
    assert (tuned < 0.5).any()  # scores below a half: 0.5 would lose much
    assert f1_score(truth, probs >= tuned, average="macro") > f1_score(truth, probs >= 0.5, average="macro") + 0.1


def test_of_equal_thresholds_the_one_nearest_a_half_is_taken() -> None:
    probs, truth = np.array([[0.1], [0.3], [0.9]]), np.array([[0], [0], [1]])
    assert tune_thresholds(probs, truth) == pytest.approx([0.6])  # midway between 0.3 and 0.9


def test_a_label_that_nobody_carries_keeps_a_half() -> None:
    assert tune_thresholds(np.array([[0.2, 0.9], [0.1, 0.3]]), np.array([[0, 1], [0, 0]]))[0] == 0.5


def test_figures_by_hand() -> None:
    probs = np.array([[0.9, 0.2, 0.4], [0.1, 0.8, 0.7], [0.6, 0.6, 0.2], [0.3, 0.1, 0.1]])
    truth = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]])
    results = measure_sets(probs, truth, ("a", "b", "c"), Thresholds(np.array([0.5, 0.5, 0.5]), "|"))
    # Predicted: a | b,c | a,b | none. Right as sets: the second and the fourth. Wrong cells: c of row 1, b of row 3.
    assert results["accuracy"] == 2 / 4
    assert results["hamming_loss"] == pytest.approx(2 / 12)
    f1 = {"a": 1.0, "b": 2 / 3, "c": 2 / 3}
    assert {name: row["f1"] for name, row in results["per_class"].items()} == pytest.approx(f1)
    assert results["macro_f1"] == pytest.approx(sum(f1.values()) / 3)
    assert results["micro_f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))
    assert results["per_class"]["b"] == pytest.approx(
        {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1, "threshold": 0.5}
    )
    own = np.where(truth > 0, probs, 1 - probs)
    assert results["log_loss"] == pytest.approx(-np.log(own).mean())


def test_intervals_are_those_of_drawn_rows() -> None:
    probs, truth = draw(300, 3)
    carried, predicted = truth > 0, probs >= 0.3
    found = bootstrap_sets(carried, predicted)
    generator = np.random.default_rng(7)
    drawn: dict[str, list[float]] = {"accuracy": [], "micro_f1": [], "macro_f1": []}
    for _ in range(2000):
        rows = generator.integers(0, 300, 300)
        truth, guess = carried[rows], predicted[rows]
        hits, all_of = (truth & guess).sum(axis=0), truth.sum(axis=0) + guess.sum(axis=0)
        drawn["accuracy"].append((truth == guess).all(axis=1).mean())
        drawn["micro_f1"].append(2 * hits.sum() / all_of.sum())
        drawn["macro_f1"].append((2 * hits / all_of).mean())
    for name, values in drawn.items():
        assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist(), abs=0.015)
