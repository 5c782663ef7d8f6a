"""The tests' own numbers: by hand, against scipy's, and by how often they are wrong."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from newslora.evaluation import paired
from newslora.evaluation.paired import bootstrap_p, interval, mcnemar, over_seeds, resample, spread


def test_mcnemar_by_hand() -> None:
    first = np.array([True] * 5 + [False] * 1 + [True] * 20 + [False] * 3)
    second = np.array([False] * 5 + [True] * 1 + [True] * 20 + [False] * 3)
    # Six rows differ, one against five: 2 (C(6, 0) + C(6, 1)) / 2^6.
    assert mcnemar(first, second) == {"only_first_right": 5, "only_second_right": 1, "p": pytest.approx(14 / 64)}


def test_mcnemar_of_equals() -> None:
    same = np.array([True, False, True])
    assert mcnemar(same, same) == {"only_first_right": 0, "only_second_right": 0, "p": 1.0}


def rows(n: int, accuracies: list[float], seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(classes, size=n)
    wrong = (truth + generator.integers(1, classes, size=n)) % classes
    columns = [np.where(generator.random(n) < accuracy, truth, wrong) for accuracy in accuracies]
    return truth, np.stack(columns, axis=1)


def test_draws_are_those_of_the_plain_bootstrap_over_rows() -> None:
    truth, predicted = rows(400, [0.9, 0.8])
    accuracy, f1 = resample(truth, predicted, 3)
    generator = np.random.default_rng(1)
    plain = np.array([
        [(drawn := generator.integers(400, size=400)) is None, *(
            figure(truth[drawn], predicted[drawn, run])
            for figure in (lambda t, p: (t == p).mean(), lambda t, p: f1_score(t, p, average="macro"))
            for run in (0, 1)
        )]
        for _ in range(1500)
    ])[:, 1:].astype(float)  # fmt: skip
    drawn = np.column_stack([accuracy, f1])
    assert drawn.mean(axis=0) == pytest.approx(plain.mean(axis=0), abs=0.003)
    assert drawn.std(axis=0) == pytest.approx(plain.std(axis=0), rel=0.08)
    assert np.corrcoef(drawn.T) == pytest.approx(np.corrcoef(plain.T), abs=0.08)


def test_runs_are_drawn_together() -> None:
    truth, predicted = rows(300, [0.85])
    accuracy, f1 = resample(truth, np.repeat(predicted, 2, axis=1), 3)
    assert (accuracy[:, 0] == accuracy[:, 1]).all()
    assert (f1[:, 0] == f1[:, 1]).all()


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, predicted = rows(200, [0.85, 0.7])
    whole = resample(truth, predicted, 3)
    monkeypatch.setattr(paired, "_CELLS_AT_ONCE", 5000)
    parts = resample(truth, predicted, 3)
    assert all((one == other).all() for one, other in zip(whole, parts, strict=True))


def test_the_bootstrap_finds_nothing_between_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among 200 pairs of classifiers equally good, about one in twenty is called different at 0.05."""
    monkeypatch.setattr(paired, "RESAMPLES", 400)
    found = 0
    for seed in range(200):
        accuracy, _ = resample(*rows(300, [0.85, 0.85], seed), 3, seed)
        found += bootstrap_p(accuracy[:, 0] - accuracy[:, 1]) < 0.05
    assert 2 <= found <= 20


def test_the_bootstrap_finds_a_clear_difference() -> None:
    accuracy, _ = resample(*rows(1000, [0.9, 0.8]), 3)
    differences = accuracy[:, 0] - accuracy[:, 1]
    assert bootstrap_p(differences) == pytest.approx(2 / 10_001)
    low, high = interval(differences)
    assert 0.05 < low < 0.1 < high < 0.15


def test_no_difference_at_all_has_p_1() -> None:
    assert bootstrap_p(np.zeros(50)) == 1.0


def test_spread_by_hand() -> None:
    figures = spread([0.90, 0.91, 0.92])
    half = 4.302653 * 0.01 / 3**0.5  # Student's t, 2 degrees of freedom, 0.975
    assert figures["mean"] == pytest.approx(0.91)
    assert figures["sd"] == pytest.approx(0.01)
    assert figures["interval_95"] == pytest.approx([0.91 - half, 0.91 + half], abs=1e-8)
    assert figures["values"] == [0.90, 0.91, 0.92]


def test_tests_over_seeds_are_scipys() -> None:
    one, other = [0.91, 0.93, 0.90, 0.92, 0.95], [0.90, 0.91, 0.90, 0.90, 0.92]
    assert over_seeds(one, other, paired=True) == {
        "test": "paired t over 5 seeds",
        "p": pytest.approx(stats.ttest_rel(one, other).pvalue),
    }
    assert over_seeds(one, other[:4], paired=False) == {
        "test": "Welch's t over 5 and 4 seeds",
        "p": pytest.approx(stats.ttest_ind(one, other[:4], equal_var=False).pvalue),
    }
    fixed = {"test": "t over 5 seeds", "p": pytest.approx(stats.ttest_1samp(one, 0.9).pvalue)}
    assert over_seeds(one, [0.9], paired=False) == fixed
    assert over_seeds([0.9], one, paired=False) == fixed


@pytest.mark.parametrize(("other", "p"), [([0.9, 0.9], 1.0), ([0.8, 0.8], 0.0), ([0.9], 1.0), ([0.8], 0.0)])
@pytest.mark.parametrize("is_paired", [True, False])
def test_seeds_that_change_nothing(other: list[float], p: float, is_paired: bool) -> None:
    assert over_seeds([0.9, 0.9], other, paired=is_paired and len(other) == 2)["p"] == p
