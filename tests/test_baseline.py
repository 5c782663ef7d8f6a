"""A baseline from a table to a run folder, and on to new rows."""

import csv
import json
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score
from tests.evaluation.rows import prepared
from tests.newsroom import articles, write_table

from newslora.baseline import train_baseline
from newslora.config import RunConfig, change
from newslora.data.prepare import Prepared
from newslora.errors import NewsloraError
from newslora.evaluation.baselines import BASELINES
from newslora.evaluation.evaluate import evaluate_run
from newslora.inference.classifier import NewsClassifier
from newslora.training.run_folder import RunFolder

FILES = {"config.yaml", "data_report.json", "evaluation.json", "predictions.csv", "README.md"}
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".bin", ".npy")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, news_backbone: Path) -> RunConfig:
    return prepared(tmp_path_factory.mktemp("rows"), news_backbone)[1]


@pytest.fixture(scope="module")
def svm(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train_baseline("svm", config, tmp_path_factory.mktemp("runs") / "svm")


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_leaves_a_run_folder(name: str, config: RunConfig, tmp_path: Path) -> None:
    seen: list[Prepared] = []
    run = train_baseline(name, config, tmp_path / name, report=seen.append)
    files = {str(file.relative_to(run.path)) for file in run.path.rglob("*") if file.is_file()}
    assert files >= FILES
    assert not [file for file in files if file.endswith(PICKLES)]
    assert run.config() == config
    assert (run.is_baseline, run.is_finished) == (True, True)
    assert f"The baseline `{name}`: nothing is fine-tuned here" in run.card.read_text()
    assert f"from {len(seen[0].train.labels)} rows" in run.card.read_text()
    results = json.loads(run.evaluation_file.read_text())
    assert f"accuracy {results['accuracy']:.4f}" in run.card.read_text()
    assert sum(part["n"] for part in results["slices"] if part["by"] == "filter") == results["n"] == 60


def test_figures_recomputed_from_the_predictions_agree(config: RunConfig, tmp_path: Path) -> None:
    run = train_baseline("svm", change(config, {"data.limit": 10}, "test"), tmp_path / "run")
    results = json.loads(run.evaluation_file.read_text())
    with (run.path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert accuracy_score([row["label"] for row in rows], [row["predicted"] for row in rows]) == results["accuracy"]
    probs = [[float(row[f"p_{name}"]) for name in results["labels"]] for row in rows]
    assert all(sum(row) == pytest.approx(1) for row in probs)
    assert results["temperature"] != 1.0  # fitted to decision values, which are no logits
    assert results["log_loss"] < 1.0


@pytest.mark.parametrize("name", BASELINES)
def test_evaluate_reads_it_and_finds_the_same(name: str, config: RunConfig, tmp_path: Path) -> None:
    run = train_baseline(name, config, tmp_path / name)
    before = json.loads(run.evaluation_file.read_text())
    again = evaluate_run(run, str(config.data.test), tmp_path / "again")
    assert again == before
    assert (tmp_path / "again" / "predictions.csv").read_bytes() == (run.path / "predictions.csv").read_bytes()


def test_other_rows_replace_the_evaluation_and_the_card(config: RunConfig, tmp_path: Path) -> None:
    run = train_baseline("svm", change(config, {"data.test": None}, "test"), tmp_path / "run")
    assert not run.evaluation_file.exists()
    assert run.is_finished
    table = write_table(tmp_path / "new.csv", articles(25, seed=5))
    results = evaluate_run(run, str(table))
    assert results["n"] == 25
    assert "On 25 rows of" in run.card.read_text()


def test_it_is_fitted_to_the_rows_that_a_run_would_be_given(config: RunConfig, tmp_path: Path) -> None:
    """Filtered, limited and split by the seed: another seed draws other rows."""
    limited = change(config, {"data.limit": 60, "data.validation": None}, "test")
    weights = {
        seed: (
            train_baseline("svm", change(limited, {"train.seed": seed}, "test"), tmp_path / str(seed)).baseline
            / "baseline.safetensors"
        ).read_bytes()
        for seed in (0, 1)
    }
    assert weights[0] != weights[1]
    report = json.loads((tmp_path / "0" / "data_report.json").read_text())
    assert report["rows"]["train"] == 60


def test_what_fails_leaves_no_folder(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="no such file"):
        train_baseline("svm", change(config, {"data.test": "none.csv"}, "test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_interrupted_leaves_no_folder(config: RunConfig, tmp_path: Path) -> None:
    def interrupt(_: Prepared) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_baseline("svm", config, tmp_path / "run", report=interrupt)
    assert not (tmp_path / "run").exists()


def test_a_taken_folder_and_an_unknown_name_are_refused(config: RunConfig, svm: RunFolder, tmp_path: Path) -> None:
    before = svm.evaluation_file.read_bytes()
    with pytest.raises(NewsloraError, match="exists; choose another --output"):
        train_baseline("svm", config, svm.path)
    assert svm.evaluation_file.read_bytes() == before
    with pytest.raises(NewsloraError, match="unknown baseline"):
        train_baseline("forest", config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_shift_and_classifying_are_for_fine_tuned_runs(svm: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="--shift: is measured on fine-tuned runs only"):
        evaluate_run(svm, str(config.data.test), tmp_path / "out", shift=True)
    with pytest.raises(NewsloraError):
        NewsClassifier.load(svm.path)
