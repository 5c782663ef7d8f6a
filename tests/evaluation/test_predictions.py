"""Answers read from a run's file, or given anew."""

import shutil
from pathlib import Path

import pytest
from tests.evaluation.test_evaluate import NAMES

from newslora.errors import NewsloraError
from newslora.evaluation.evaluate import evaluate_run
from newslora.evaluation.predictions import predict, read_contender, read_predictions
from newslora.training.run_folder import RunFolder


@pytest.fixture
def run(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(small_run.path, tmp_path / "run")))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    words = ["troops talks", "match coach wins", "market shares rise", "probe comet chip"]
    rows = [f"{NAMES[i % 4]},The {words[(i + i // 7) % 4]} on <b>a</b>" for i in range(30)]
    path = tmp_path / "test.csv"
    path.write_text("\n".join(["label,text", *rows]) + "\n")
    return path


def test_what_is_read_is_what_is_predicted(run: RunFolder, table: Path) -> None:
    evaluate_run(run, str(table))
    before = sorted(run.path.rglob("*"))
    read, given = read_predictions(run), predict(run, str(table))
    assert (read.places, read.labels, read.predicted) == (given.places, given.labels, given.predicted)
    assert read.source == given.source == str(table)
    assert read.names == given.names == NAMES
    assert read.texts is None
    assert given.texts == [f"The {text} on a" for text in (row.split(" ", 1)[1].rsplit(" on", 1)[0]
                           for row in table.read_text().splitlines()[1:])]  # fmt: skip
    assert sorted(run.path.rglob("*")) == before


def test_rows_without_a_label_are_left_out(run: RunFolder, table: Path) -> None:
    evaluate_run(run, str(table))
    file = run.path / "predictions.csv"
    lines = file.read_text().splitlines()
    place, _, rest = lines[3].split(",", 2)
    lines[3] = f"{place},,{rest}"
    file.write_text("\n".join(lines) + "\n")
    read = read_predictions(run)
    assert len(read.labels) == 29
    assert place not in read.places


def test_a_run_that_was_not_evaluated_is_named(run: RunFolder) -> None:
    with pytest.raises(NewsloraError, match=r"run: was not evaluated; give --data FILE"):
        read_contender(run.path)


def test_a_damaged_file_is_named(run: RunFolder, table: Path) -> None:
    evaluate_run(run, str(table))
    (run.path / "predictions.csv").write_text("place,predicted\n1,World\n")
    with pytest.raises(NewsloraError, match=r"predictions\.csv: cannot be read; repeat newslora evaluate"):
        read_contender(run.path)


def test_seeds_that_are_not_all_trained_are_refused(run: RunFolder) -> None:
    config = run.config()
    several = config.model_copy(update={"train": config.train.model_copy(update={"seeds": (0, 1)})})
    several.save(run.config_file)
    with pytest.raises(NewsloraError, match=r"not all of its seeds are trained; go on with --resume"):
        read_contender(run.path)


def test_a_single_run_is_one_side_without_seeds(run: RunFolder, table: Path) -> None:
    side = read_contender(run.path, str(table))
    assert (side.name, side.baseline, side.seeds, len(side.runs)) == (str(run.path), None, (), 1)
