"""Sweeps from a settings file to the best settings, on a tiny backbone."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from newslora.config import load_config
from newslora.errors import NewsloraError
from newslora.search.sweep import TrialDone, sweep
from newslora.training.run_folder import RunFolder
from newslora.workflow import train

MakeSpace = Any


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_leaves_a_table_figures_and_the_best_settings(make_space: MakeSpace, tmp_path: Path) -> None:
    output, seen = tmp_path / "sweep", []
    space = make_space({"lora.r": [1, 4], "lora.alpha/r": [1, 8]}, train={"epochs": 2})
    board = sweep(space, output, report=seen.append)
    assert [done.values for done in seen] == space.grid()
    assert all(isinstance(done, TrialDone) and done.result is not None for done in seen)
    rows = rows_of(output)
    assert [row["state"] for row in rows] == ["complete"] * 4
    assert max(float(row["accuracy"]) for row in rows) == board.best().values[0]  # type: ignore[union-attr]
    figures = {file.name for file in (output / "figures").iterdir()}
    assert figures >= {"grid.png", "grid.svg", "pareto.png", "parallel.png"}
    table = (output / "table.md").read_text()
    assert "| lora.r \\ lora.alpha/r | 1 | 8 |" in table
    assert table.count(" to ") == 4
    assert not list(output.rglob("checkpoints"))


def test_the_best_settings_train_to_the_best_figure(make_space: MakeSpace, tmp_path: Path) -> None:
    space = make_space({"train.lr": {"low": 1e-4, "high": 5e-2, "log": True}}, train={"epochs": 2})
    board = sweep(space, tmp_path / "sweep", trials=4)
    best = load_config(tmp_path / "sweep" / "best.yaml")
    assert best.data.test is not None  # in place again, for the one evaluation at the end
    run = train(best, tmp_path / "run")
    assert max(row["val_accuracy"] for row in run.metrics()) == board.best().values[0]  # type: ignore[union-attr]
    assert run.evaluation_file.exists()


def test_the_test_table_is_never_read(make_space: MakeSpace, tmp_path: Path) -> None:
    space = make_space({"lora.r": [1, 2]}, data={"test": "no/such/table.csv"})
    assert len(sweep(space, tmp_path / "sweep").done()) == 2


def test_parameters_in_the_table_are_those_trained(make_space: MakeSpace, tmp_path: Path) -> None:
    space = make_space({"lora.r": [1, 3], "model.head": ["lora", "full"], "lora.dora": [True]})
    sweep(space, tmp_path / "sweep")
    for row in rows_of(tmp_path / "sweep"):
        config = RunFolder.open(tmp_path / "sweep" / "trials" / row["key"]).config()
        lora = 2 * 2 * (config.lora.r * 64 + 32)  # two layers, query and value, magnitudes
        output = 5 * 32 + 5
        head = output + (config.lora.r * 64 if config.model.head == "lora" else 32 * 32 + 32)
        assert int(row["parameters"]) == lora + head


def test_a_diverging_trial_is_given_up_and_the_sweep_goes_on(make_space: MakeSpace, tmp_path: Path) -> None:
    seen: list[TrialDone] = []
    space = make_space({"train.lr": [1e30, 0.01]}, train={"epochs": 2})
    sweep(space, tmp_path / "sweep", report=seen.append)
    assert [done.result is None for done in seen] == [True, False]
    assert [row["state"] for row in rows_of(tmp_path / "sweep")] == ["pruned", "complete"]


def test_a_fault_of_the_settings_stops_the_sweep(make_space: MakeSpace, tmp_path: Path) -> None:
    space = make_space({"lora.layers": ["0", "7"]})
    with pytest.raises(NewsloraError, match=r"lora\.layers"):
        sweep(space, tmp_path / "sweep")


def test_poor_trials_are_given_up_after_an_epoch(make_space: MakeSpace, tmp_path: Path) -> None:
    seen: list[TrialDone] = []
    # Five good trials set the median; at the lowest rate nothing is learned, and a cold head guesses.
    good = [0.02, 0.021, 0.022, 0.023, 0.024]
    space = make_space({"train.lr": [*good, 1e-9]}, train={"epochs": 3, "warm_head": False}, model={"head": "full"})
    board = sweep(space, tmp_path / "sweep", trials=6, report=seen.append)
    poor = [done for done in seen if done.values["train.lr"] == 1e-9]
    later = seen.index(poor[0]) == 5
    assert (poor[0].result is None) == later  # one of the first five is let run
    assert len(board.taken()) == 6


def test_objectives_are_checked(make_space: MakeSpace, tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="--objectives: parameters comes first"):
        sweep(make_space({"lora.r": [1]}), tmp_path / "sweep", objectives=("parameters",))
    space = make_space({"lora.r": [1, 2]})
    board = sweep(space, tmp_path / "sweep", objectives=("macro_f1", "parameters", "seconds"))
    assert [trial.values[1] for trial in board.done()] == [trial.user_attrs["parameters"] for trial in board.done()]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from newslora.search.space import read_space
from newslora.search import sweep as module
seen = []
def watch(original):
    def fit(config, data, model, run, report, **more):
        def hurt(event):
            report(event)
            if seen and type(event).__name__ == "CheckpointSaved":
                os.kill(os.getpid(), signal.SIGKILL)
        return original(config, data, model, run, hurt, **more)
    return fit
module.fit = watch(module.fit)
module.sweep(read_space(Path(sys.argv[1]), None, {}), Path(sys.argv[2]), report=seen.append)
"""


def test_a_killed_sweep_goes_on_and_repeats_no_finished_trial(make_space: MakeSpace, tmp_path: Path) -> None:
    space, output = make_space({"lora.r": [1, 2, 3]}, train={"epochs": 2}), tmp_path / "sweep"
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "space.yaml"), str(output)]
    died = subprocess.run(words, check=False, capture_output=True, text=True, env=os.environ)
    assert died.returncode == -signal.SIGKILL, died.stderr
    seen: list[TrialDone] = []
    sweep(space, output, report=seen.append)
    assert [done.values["lora.r"] for done in seen] == [2, 3]
    rows = rows_of(output)
    assert sorted(int(row["lora.r"]) for row in rows) == [1, 2, 3]
    assert all(row["state"] == "complete" for row in rows)
    # The second trial went on from its checkpoint: its run shows both epochs.
    [killed] = [row for row in rows if row["lora.r"] == "2"]
    assert [row["epoch"] for row in RunFolder.open(output / "trials" / killed["key"]).metrics()] == [1, 2]
    whole = sweep(make_space({"lora.r": [1, 2, 3]}, train={"epochs": 2}), tmp_path / "whole")
    by_rank = {int(row["lora.r"]): row["accuracy"] for row in rows}
    assert {t.params["lora.r"]: str(t.values[0]) for t in whole.done()} == by_rank
