"""What was learned, written and read back."""

from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.rows import prepared

from newslora.config import RunConfig
from newslora.data.prepare import Prepared
from newslora.errors import NewsloraError
from newslora.evaluation.baseline_state import load_baseline, read_baseline, save_baseline
from newslora.evaluation.baselines import BASELINES


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, news_backbone: Path) -> tuple[Prepared, RunConfig]:
    return prepared(tmp_path_factory.mktemp("rows"), news_backbone)


@pytest.mark.parametrize("name", BASELINES)
def test_what_is_read_back_scores_the_same_to_the_last_bit(
    name: str, rows: tuple[Prepared, RunConfig], tmp_path: Path
) -> None:
    data, config = rows
    fitted = BASELINES[name](data, config)
    save_baseline(fitted, name, data.names, tmp_path, {"accuracy": 0.5})
    before = fitted.logits(data.test.texts, data.test.encoded)
    after = load_baseline(tmp_path).logits(data.test.texts, data.test.encoded)
    assert (before == after).all()
    about = read_baseline(tmp_path)
    assert (about["baseline"], about["labels"], about["validation"]) == (name, list(data.names), {"accuracy": 0.5})
    assert about["parameters"] == load_baseline(tmp_path).parameters > 0
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".safetensors", ".fasttext"}


def test_counted_parameters_are_the_learned_numbers(rows: tuple[Prepared, RunConfig]) -> None:
    data, config = rows
    svm = BASELINES["svm"](data, config)
    assert svm.parameters == 5 * len(svm.features.terms) + 5
    assert BASELINES["probe"](data, config).parameters == 5 * 32 + 5
    assert BASELINES["majority"](data, config).parameters == 5


def test_an_altered_file_is_refused(rows: tuple[Prepared, RunConfig], tmp_path: Path) -> None:
    data, config = rows
    save_baseline(BASELINES["svm"](data, config), "svm", data.names, tmp_path, {})
    file = tmp_path / "baseline.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(NewsloraError, match=r"baseline\.safetensors"):
        load_baseline(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NewsloraError):
        load_baseline(tmp_path)


def test_a_label_with_a_slash_and_any_script_is_kept(rows: tuple[Prepared, RunConfig], tmp_path: Path) -> None:
    data, config = rows
    names = ("Sci/Tech", "Спорт", "经济", 'a "quoted" one', "e")
    save_baseline(BASELINES["majority"](data, config), "majority", names, tmp_path, {})
    assert tuple(read_baseline(tmp_path)["labels"]) == names
    assert np.isfinite(load_baseline(tmp_path).logits(["x"], data.test.encoded)).all()
