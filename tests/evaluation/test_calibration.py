import json
from pathlib import Path

import numpy as np
import pytest

from newslora.evaluation.calibration import (
    adaptive_calibration_error,
    calibrate,
    calibration_error,
    fit_temperature,
    reliability_bins,
    risk_coverage,
)
from newslora.model.temperature import load_temperature, probabilities


def honest_rows(rows: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the distribution that the labels are drawn from."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(rows, 4)) * 2.0
    cumulative = probabilities(logits).cumsum(axis=1)
    return logits, (generator.random((rows, 1)) > cumulative[:, :-1]).sum(axis=1)


def two_class(confidence: list[float]) -> np.ndarray:
    return np.column_stack([confidence, 1.0 - np.array(confidence)])


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_is_found_again(factor: float) -> None:
    logits, labels = honest_rows()
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.03)


def test_temperature_of_faultless_rows_stays_one() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.array([0, 1])) == 1.0


def test_temperature_of_hopeless_rows_is_bounded() -> None:
    logits = np.array([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(20.0, rel=1e-3)


def test_calibrate_saves_what_it_measured(tmp_path: Path) -> None:
    logits, labels = honest_rows(4000)
    temperature = calibrate(tmp_path, logits * 2.5, labels)
    saved = json.loads((tmp_path / "calibration.json").read_text())
    assert load_temperature(tmp_path) == temperature == saved["temperature"]
    assert saved["ece_after"] < 0.03 < saved["ece_before"]
    assert saved["log_loss_after"] < saved["log_loss_before"]
    assert saved["n"] == 4000


def test_calibration_error_worked_by_hand() -> None:
    # Two bins of 15 are filled: (0.8, 0.866…] with one of two right, (0.933…, 1] with both right.
    probs = two_class([0.81, 0.85, 0.95, 0.99])
    labels = np.array([0, 1, 0, 0])
    expected = (2 * abs(0.5 - 0.83) + 2 * abs(1.0 - 0.97)) / 4
    assert calibration_error(probs, labels) == pytest.approx(expected)


def test_bin_edges_belong_to_the_bin_below() -> None:
    bins = reliability_bins(two_class([0.6, 0.601, 1.0]), np.array([0, 0, 0]), bins=5)
    assert [part["n"] for part in bins] == [0, 0, 1, 1, 1]
    assert bins[0]["accuracy"] is None
    assert bins[2] == {
        "low": pytest.approx(0.4),
        "high": pytest.approx(0.6),
        "n": 1,
        "confidence": 0.6,
        "accuracy": 1.0,
    }


def test_adaptive_error_sees_what_equal_widths_hide() -> None:
    # All in one bin of equal width, where over- and underconfidence cancel.
    probs = two_class([0.94] * 50 + [0.99] * 50)
    labels = np.array([0] * 50 + [0, 1] * 10 + [0] * 30)
    assert adaptive_calibration_error(probs, labels, bins=2) == pytest.approx((0.06 + 0.19) / 2)
    assert calibration_error(probs, labels) == pytest.approx(0.965 - 0.9)


def test_adaptive_error_with_fewer_rows_than_bins() -> None:
    assert adaptive_calibration_error(two_class([0.7, 0.9]), np.array([0, 0])) == pytest.approx(0.2)


def test_honest_probabilities_are_calibrated() -> None:
    logits, labels = honest_rows()
    probs = probabilities(logits)
    assert calibration_error(probs, labels) < 0.015
    assert adaptive_calibration_error(probs, labels) < 0.015


def test_abstaining_lowers_the_error_rate() -> None:
    curve = risk_coverage(two_class([0.99, 0.95, 0.9, 0.6]), np.array([0, 0, 1, 1]))
    by_coverage = {point["coverage"]: point for point in curve["points"]}
    assert by_coverage[1.0] == {"coverage": 1.0, "confidence": 0.6, "error_rate": 0.5}
    assert by_coverage[0.5] == {"coverage": 0.5, "confidence": 0.95, "error_rate": 0.0}
    assert curve["aurc"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_the_curve_runs_from_the_surest_row_to_all() -> None:
    generator = np.random.default_rng(0)
    sure = generator.uniform(0.5, 1, size=700)
    curve = risk_coverage(two_class(sure.tolist()), (generator.random(700) > sure).astype(int))
    coverage, risk = np.transpose(curve["curve"])
    assert len(coverage) == 100
    assert (np.diff(coverage) > 0).all()
    by_coverage = {point["coverage"]: point["error_rate"] for point in curve["points"]}
    assert (coverage[-1], risk[-1]) == (1.0, by_coverage[1.0])
    assert risk[49] == by_coverage[0.5]
    assert risk[:30].mean() < risk[70:].mean()
