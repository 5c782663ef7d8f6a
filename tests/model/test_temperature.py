from pathlib import Path

import numpy as np
import pytest

from newslora.errors import NewsloraError
from newslora.model.temperature import load_temperature, probabilities, save_calibration


def test_probabilities_are_double_and_sum_to_one() -> None:
    logits = np.array([[1000.0, 0.0, -1000.0], [0.1, 0.2, 0.3]], dtype=np.float32)
    probs = probabilities(logits)
    assert probs.dtype == np.float64
    assert probs.sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-15)
    assert probs[0].tolist() == [1.0, 0.0, 0.0]


def test_temperature_flattens_and_keeps_the_order() -> None:
    logits = np.array([[3.0, 1.0, 0.0]])
    cold, warm = probabilities(logits), probabilities(logits, 2.0)
    assert warm == pytest.approx(probabilities(logits / 2.0))
    assert warm[0, 0] < cold[0, 0]
    assert warm.argsort().tolist() == cold.argsort().tolist()


def test_without_a_file_the_temperature_is_one(tmp_path: Path) -> None:
    assert load_temperature(tmp_path) == 1.0


def test_saved_and_loaded_to_the_last_digit(tmp_path: Path) -> None:
    save_calibration(tmp_path, 1.2345678901234567, {"n": 3})
    assert load_temperature(tmp_path) == 1.2345678901234567


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"temperature": "warm"}', '{"temperature": 0}', '{"temperature": NaN}']
)
def test_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(NewsloraError, match=r"calibration\.json: .*expected"):
        load_temperature(tmp_path)
