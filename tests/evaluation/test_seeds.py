"""The record over seeds, of runs and of baselines, with and without a test table."""

import json
from pathlib import Path

import pytest

from newslora.config import RunConfig
from newslora.evaluation.seeds import write_seeds
from newslora.training.run_folder import RunFolder


def single(path: Path, scores: list[float], best_by: str = "macro_f1") -> RunFolder:
    run = RunFolder.create(path, RunConfig.from_dict({"train": {"best_by": best_by}}))
    rows = [
        {"epoch": i + 1, "val_loss": [0.5, 0.3, 0.4][i], "val_accuracy": score + 0.01, "val_macro_f1": score}
        for i, score in enumerate(scores)
    ]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_validation_figures_are_those_of_the_kept_epoch(tmp_path: Path) -> None:
    by_f1 = {0: single(tmp_path / "0", [0.8, 0.7, 0.9]), 1: single(tmp_path / "1", [0.8, 0.7, 0.6])}
    record = write_seeds(RunFolder(tmp_path / "all"), by_f1)
    assert record["validation"]["macro_f1"]["values"] == [0.9, 0.8]
    assert record["validation"]["accuracy"]["values"] == pytest.approx([0.91, 0.81])
    by_loss = {seed: single(tmp_path / f"loss-{seed}", [0.8, 0.7, 0.9], "loss") for seed in (0, 1)}
    record = write_seeds(RunFolder(tmp_path / "all"), by_loss)
    assert record["validation"]["macro_f1"]["values"] == [0.7, 0.7]


def test_without_a_test_table_there_are_no_test_figures(tmp_path: Path) -> None:
    runs = {seed: single(tmp_path / str(seed), [0.8]) for seed in (0, 4)}
    record = write_seeds(RunFolder(tmp_path / "all"), runs)
    assert (record["seeds"], record["test"]) == ([0, 4], None)
    assert json.loads((tmp_path / "all" / "seeds.json").read_text()) == record


def test_baselines_tell_their_validation_figures_themselves(tmp_path: Path) -> None:
    runs = {}
    for seed, accuracy in ((0, 0.7), (1, 0.9)):
        runs[seed] = RunFolder.create(tmp_path / str(seed), RunConfig())
        runs[seed].baseline.mkdir()
        about = {"baseline": "svm", "validation": {"accuracy": accuracy, "macro_f1": accuracy - 0.1}}
        (runs[seed].baseline / "baseline.json").write_text(json.dumps(about))
        runs[seed].evaluation_file.write_text(json.dumps({"accuracy": accuracy + 0.05, "macro_f1": 0.5}))
    record = write_seeds(RunFolder(tmp_path / "all"), runs)
    assert record["validation"]["macro_f1"]["values"] == pytest.approx([0.6, 0.8])
    assert record["test"]["accuracy"]["mean"] == pytest.approx(0.85)
    assert record["test"]["macro_f1"]["sd"] == 0.0
