import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from newslora.config import DataConfig
from newslora.data.cleaning import Cleaner
from newslora.data.encoding import encode
from newslora.errors import NewsloraError
from newslora.evaluation.evaluate import evaluate_logits, evaluate_run
from newslora.model.budget import Counts
from newslora.model.classifier import build_model, load_model, predict_logits
from newslora.model.temperature import probabilities, save_calibration
from newslora.training.run_folder import RunFolder

NAMES = ("World", "Sports", "Business", "Sci/Tech")


@pytest.fixture
def run(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(small_run.path, tmp_path / "run")))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    words = ["troops talks", "match coach wins", "market shares rise", "probe comet chip"]
    path = tmp_path / "test.csv"
    with path.open("w", newline="") as file:
        rows = [[NAMES[i % 4], f"The {words[(i + i // 7) % 4]} on {'the ' * (i % 5)}<b>a</b>"] for i in range(40)]
        csv.writer(file).writerows([["label", "text"], *rows])
    return path


def test_figures_recomputed_from_the_predictions_agree_to_the_last_digit(run: RunFolder, table: Path) -> None:
    save_calibration(run.adapter, 1.7, {})
    results = evaluate_run(run, str(table))
    with (run.path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels, predicted = [row["label"] for row in rows], [row["predicted"] for row in rows]
    assert accuracy_score(labels, predicted) == results["accuracy"]
    assert f1_score(labels, predicted, average="macro") == results["macro_f1"]
    matrix = confusion_matrix(labels, predicted, labels=NAMES)
    assert matrix.tolist() == results["confusion_matrix"]
    draws = np.random.default_rng(0).multinomial(40, matrix.ravel() / 40, size=2000).reshape(-1, 4, 4)
    accuracies = draws.trace(axis1=1, axis2=2) / 40
    assert np.quantile(accuracies, [0.025, 0.975]).tolist() == results["interval_95"]["accuracy"]


def test_predictions_are_the_models_at_its_temperature(run: RunFolder, table: Path) -> None:
    save_calibration(run.adapter, 1.7, {})
    evaluate_run(run, str(table))
    model = load_model(run.adapter)
    with table.open(newline="") as file:
        texts = [Cleaner().repair(row["text"]) for row in csv.DictReader(file)]
    probs = probabilities(predict_logits(model, encode(texts, model.tokenizer, 12, cache=False)), 1.7)
    with (run.path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["place"]) for row in rows] == list(range(2, 42))
    assert [[float(row[f"p_{name}"]) for name in NAMES] for row in rows] == probs.tolist()
    assert [row["predicted"] for row in rows] == [NAMES[k] for k in probs.argmax(axis=1)]


def test_the_record_is_written_with_what_it_stands_on(run: RunFolder, table: Path) -> None:
    results = evaluate_run(run, str(table))
    assert json.loads(run.evaluation_file.read_text()) == results
    assert (results["source"], results["n"], results["temperature"]) == (str(table), 40, 1.0)
    assert results["ece_before_temperature"] == results["ece"]
    counts = build_model(run.config(), NAMES).counts()
    assert (results["trainable_parameters"], results["total_parameters"]) == (counts.trainable, counts.total)
    confusions = results["top_confusions"]
    assert sum(pair["count"] for pair in confusions) == round(40 * (1 - results["accuracy"]))
    names = ("confusion_matrix", "reliability", "risk_coverage")
    assert {file.name for file in run.figures.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    }
    assert sum(part["n"] for part in results["slices"] if part["by"] == "length") == 40


def test_another_folder_leaves_the_run_as_it_is(run: RunFolder, table: Path, tmp_path: Path) -> None:
    before = sorted(run.path.rglob("*"))
    results = evaluate_run(run, str(table), tmp_path / "elsewhere")
    assert sorted(run.path.rglob("*")) == before
    assert json.loads((tmp_path / "elsewhere" / "evaluation.json").read_text()) == results


def test_columns_may_be_given(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text("topic,kind,words\nx,Sports,the match\ny,World,the troops\n")
    results = evaluate_run(run, str(tmp_path / "odd.csv"), data=DataConfig(text=("words",), label="kind"))
    assert [results["per_class"][name]["support"] for name in NAMES] == [1, 1, 0, 0]


def test_columns_and_first_class_are_taken_as_at_training(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text("title,kind,words\nx,1,the match\ny,2,the troops\n")
    columns = {"text": ["words"], "label": "kind"}
    train = {"source": "train.csv", "columns": columns, "rows": 9, "repaired": 0}
    report = {"tables": {"train": train}, "label_base": 0, "rows": {}, "filters": {}, "leaks": {}}
    (run.path / "data_report.json").write_text(json.dumps(report))
    results = evaluate_run(run, str(tmp_path / "odd.csv"))
    assert [results["per_class"][name]["support"] for name in NAMES] == [0, 1, 1, 0]
    assert "2 rows of" in run.card.read_text()
    with (run.path / "predictions.csv").open(newline="") as file:
        scores = [float(row["p_World"]) for row in csv.DictReader(file)]
    model = load_model(run.adapter)
    logits = predict_logits(model, encode(["the match", "the troops"], model.tokenizer, 12, cache=False))
    assert scores == probabilities(logits)[:, 0].tolist()


def test_an_unknown_label_is_named_with_its_line(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("label,text\nSports,the match\nWeather,the probe\n")
    with pytest.raises(NewsloraError, match=r"bad\.csv:3: unknown label 'Weather'; known labels: World, Sports"):
        evaluate_run(run, str(tmp_path / "bad.csv"))
    assert not run.evaluation_file.exists()


def test_temperature_changes_confidence_and_no_prediction(run: RunFolder, tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 5
    about = {"names": NAMES, "places": range(50), "source": "x.csv", "counts": Counts(1, 2)}
    labels = logits.argmax(axis=1)
    labels[::3] = 0
    plain = evaluate_logits(run, logits, labels.tolist(), **about, output=tmp_path / "plain")
    save_calibration(run.adapter, 4.0, {})
    warm = evaluate_logits(run, logits, labels.tolist(), **about, output=tmp_path / "warm")
    assert warm["confusion_matrix"] == plain["confusion_matrix"]
    assert warm["ece_before_temperature"] == plain["ece"]
    assert warm["ece"] != plain["ece"]


def test_a_row_without_a_label_is_predicted_and_not_measured(run: RunFolder) -> None:
    logits = np.eye(4)
    about = {"names": NAMES, "places": [1, 2, 3, 4], "source": "x.csv", "counts": Counts(1, 2)}
    results = evaluate_logits(run, logits, [0, -1, 2, 0], **about)
    assert (results["n"], results["accuracy"]) == (3, pytest.approx(2 / 3))
    with (run.path / "predictions.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["World", "", "Business", "World"]
