import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from newslora.data.cleaning import Cleaner
from newslora.errors import NewsloraError
from newslora.inference.parity import Rows, Tolerance, compare, faults, read_rows
from newslora.training.run_folder import RunFolder

NAMES = ("World", "Sports", "Business", "Sci/Tech")
ROWS = Rows("in.csv", ["a", "b", "c", "d"], np.array([0, 1, 1, 0]))
LOGITS = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 0.5], [-4.0, 1.0]])
EXACT, LOOSE = Tolerance(1e-4, 0.0, 0.0), Tolerance(0.5, 0.5, 0.1)


def read(run: RunFolder, source: str | None = None) -> Rows:
    return read_rows(run.adapter, NAMES, Cleaner(), source)


@pytest.fixture
def run(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(small_run.path, tmp_path / "run")))


def test_figures_of_a_comparison() -> None:
    found = LOGITS + np.array([[0.0, 0.25], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert compare(LOGITS, found, ROWS) == {
        "source": "in.csv",
        "rows": 4,
        "greatest_logit": 4.0,
        "greatest_logit_difference": 1.0,
        "labels_agree": 0.75,
        "accuracy": {"model": 0.75, "export": 0.5},
    }
    assert "accuracy" not in compare(LOGITS, found, Rows("in.csv", ROWS.texts, None))


def test_the_same_logits_have_no_fault() -> None:
    assert faults(compare(LOGITS, LOGITS, ROWS), EXACT) == []


def test_each_fault_is_told() -> None:
    found = LOGITS.copy()
    found[2] = [4.0, 0.5]
    figures = compare(LOGITS, found, ROWS)
    assert faults(figures, EXACT) == [
        "logits differ by 4, at most 0.0004 is allowed",
        "labels agree on 75.00%, at least 100.00% is asked",
        "accuracy falls by 25.00%, at most 0.00% is allowed",
    ]
    assert faults(figures, LOOSE) == ["logits differ by 4, at most 2 is allowed"]


def test_one_row_of_few_may_differ_where_some_may() -> None:
    figures = compare(LOGITS, LOGITS, ROWS) | {"labels_agree": 0.75, "accuracy": {"model": 0.75, "export": 0.5}}
    assert faults(figures, Tolerance(0.5, 0.007, 0.003)) == []
    assert len(faults(figures | {"labels_agree": 0.5}, Tolerance(0.5, 0.007, 0.003))) == 1
    assert len(faults(figures | {"rows": 400}, Tolerance(0.5, 0.007, 0.003))) == 2


def test_logits_that_are_no_numbers() -> None:
    assert len(faults(compare(LOGITS, LOGITS * np.nan, ROWS), LOOSE)) >= 1


def test_a_better_export_is_no_fault() -> None:
    assert faults(compare(LOGITS, LOGITS, ROWS) | {"accuracy": {"model": 0.5, "export": 0.9}}, EXACT) == []


def test_rows_of_a_given_table(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("label,text\nSports,The &lt;b&gt;match\nWorld,<br>\nBusiness,Shares\n")
    rows = read(run, str(tmp_path / "in.csv"))
    assert (rows.texts, rows.labels.tolist() if rows.labels is not None else None) == (["The match", "Shares"], [1, 2])


def test_a_given_table_may_lack_labels_but_not_have_others(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "The match of the year, they say"}\n')
    assert read(run, str(tmp_path / "in.jsonl")).labels is None
    (tmp_path / "in.csv").write_text("label,text\nCooking,The soup\nSports,The match\n")
    with pytest.raises(NewsloraError, match=r"in\.csv:2: unknown label 'Cooking'"):
        read(run, str(tmp_path / "in.csv"))


def test_a_table_without_text(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("label,text\nSports,<br>\nWorld,<p>\n")
    with pytest.raises(NewsloraError, match="holds no text to check the export on; give --data FILE"):
        read(run, str(tmp_path / "in.csv"))


def test_without_a_table_the_packaged_sample(run: RunFolder) -> None:
    rows = read(run)
    assert rows.source == "sample"
    assert len(rows.texts) == 100
    # Whether its classes are these or not is no reason to fail.
    assert rows.labels is None or rows.labels.max() < 4


def test_the_runs_own_test_table_comes_first(run: RunFolder, tmp_path: Path) -> None:
    lines = [f"{'Sports' if i % 2 else 'World'},the match {i} was late\n" for i in range(5000)]
    (tmp_path / "test.csv").write_text("".join(["label,text\n", *lines]))
    config = run.config()
    data = config.data.model_copy(update={"test": str(tmp_path / "test.csv")})
    config.model_copy(update={"data": data}).save(run.config_file)
    rows = read(run)
    assert (rows.source, len(rows.texts)) == (str(tmp_path / "test.csv"), 2000)
    assert (rows.texts[0], rows.texts[-1]) == ("the match 0 was late", "the match 4999 was late")
    # Integer labels count as in training.
    (tmp_path / "test.csv").write_text("label,text\n1,the match\n2,the market\n")
    table = {"source": "t.csv", "columns": {"text": ["text"], "label": "label"}}
    (run.path / "data_report.json").write_text(json.dumps({"tables": {"train": table}, "label_base": 1}))
    assert read(run).labels.tolist() == [0, 1]  # type: ignore[union-attr]
