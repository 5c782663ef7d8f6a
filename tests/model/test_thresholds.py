import json
from pathlib import Path

import numpy as np
import pytest

from newslora.errors import NewsloraError
from newslora.model.about import About
from newslora.model.seal import check_seal, seal
from newslora.model.thresholds import Thresholds, label_probabilities, load_thresholds, save_thresholds

NAMES = ("Business", "Sci/Tech")
ABOUT = About({}, NAMES, 128, multi_label=True)


def test_saved_thresholds_come_back_sealed(tmp_path: Path) -> None:
    seal(tmp_path)
    save_thresholds(tmp_path, NAMES, Thresholds(np.array([0.25, 0.75]), ";"), {"n": 9})
    check_seal(tmp_path)
    loaded = load_thresholds(tmp_path, ABOUT)
    assert loaded is not None
    assert (loaded.values.tolist(), loaded.separator) == ([0.25, 0.75], ";")
    assert loaded.carried(np.array([[0.25, 0.7], [0.2, 0.8]])).tolist() == [[True, False], [False, True]]


def test_one_label_has_none_and_untuned_ones_are_a_half(tmp_path: Path) -> None:
    assert load_thresholds(tmp_path, About({}, NAMES, 128)) is None
    untuned = load_thresholds(tmp_path, ABOUT)
    assert untuned is not None
    assert untuned.values.tolist() == [0.5, 0.5]


def test_each_label_has_a_probability_of_its_own() -> None:
    found = label_probabilities(np.array([[0.0, np.log(3)], [-1000.0, 1000.0]], dtype=np.float32))
    assert found == pytest.approx(np.array([[0.5, 0.75], [0.0, 1.0]]))


@pytest.mark.parametrize(
    "content",
    [
        {"separator": "|", "thresholds": {"Business": 0.5}},
        {"separator": "|", "thresholds": {"Business": 0.5, "Sci/Tech": "x"}},
        {"separator": "|", "thresholds": {"Business": 0.5, "Sci/Tech": 1.5}},
        {"separator": "", "thresholds": {"Business": 0.5, "Sci/Tech": 0.5}},
        {"thresholds": {"Business": 0.5, "Sci/Tech": 0.5}},
        {"separator": "|", "thresholds": [0.5, 0.5]},
    ],
)
def test_a_damaged_file_is_refused(content: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "thresholds.json").write_text(json.dumps(content))
    with pytest.raises(NewsloraError, match=r"thresholds\.json: .*; expected \{\"separator\""):
        load_thresholds(tmp_path, ABOUT)


def test_a_topic_is_carried_only_under_those_above_it(tmp_path: Path) -> None:
    names = ("A/B/C", "A", "A/B", "D/E")  # nothing knows D: D/E stands by itself
    seal(tmp_path)
    save_thresholds(tmp_path, names, Thresholds.of(np.full(4, 0.5), names, "|", "/"), {})
    loaded = load_thresholds(tmp_path, About({}, names, 128, multi_label=True))
    assert loaded is not None
    probabilities = np.array([[0.9, 0.9, 0.1, 0.9], [0.9, 0.1, 0.9, 0.1], [0.9, 0.9, 0.9, 0.1], [0.1, 0.9, 0.9, 0.1]])
    expected = [[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0]]
    np.testing.assert_array_equal(loaded.carried(probabilities), expected)
    np.testing.assert_array_equal(loaded.carried(probabilities[0]), expected[0])


def test_a_hierarchy_that_is_no_text_is_refused(tmp_path: Path) -> None:
    content = {"separator": "|", "hierarchy": 3, "thresholds": {"Business": 0.5, "Sci/Tech": 0.5}}
    (tmp_path / "thresholds.json").write_text(json.dumps(content))
    with pytest.raises(NewsloraError, match="hierarchy is no text; expected what stands between topics, or null"):
        load_thresholds(tmp_path, ABOUT)
