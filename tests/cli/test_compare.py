"""``newslora compare`` as a user types it."""

import csv
import json
from pathlib import Path

import pytest
from tests.cli.conftest import Command, Desk
from tests.newsroom import articles, write_table

from newslora.training.run_folder import RunFolder


@pytest.fixture
def svm(command: Command, desk: Desk, trained: RunFolder) -> Path:
    """A baseline on the rows of the trained run."""
    assert command("baseline", "svm", trained.config_file, "--output", desk.run).status == 0
    return desk.run


def test_a_run_against_a_baseline_by_their_own_predictions(command: Command, trained: RunFolder, svm: Path) -> None:
    done = command("compare", trained.path, svm, "--json")
    result = json.loads(done.out)
    assert [row["run"] for row in result["runs"]] == [str(trained.path), str(svm)]
    for row in result["runs"]:
        own = json.loads((Path(row["run"]) / "evaluation.json").read_text())
        assert (row["accuracy"], row["interval_95"]) == (own["accuracy"], own["interval_95"])
    [pair] = result["pairs"]
    assert not pair["finding"]
    assert "single seed" in result["notes"][0]


def test_new_rows_and_a_file_of_disagreements(command: Command, trained: RunFolder, svm: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "new.csv", articles(40, seed=7))
    before = (svm / "evaluation.json").read_bytes()
    done = command("compare", trained.path, svm, "--data", table, "--output", tmp_path / "rows.csv", "--json")
    result = json.loads(done.out)
    assert (result["n"], result["source"]) == (40, str(table))
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result["disagreements"] > 0
    assert all(row[str(svm)] != row[str(trained.path)] for row in rows)
    lines = table.read_text().splitlines()
    assert all(row["text"] in lines[int(row["place"]) - 1] for row in rows)
    assert (svm / "evaluation.json").read_bytes() == before


def test_the_table_for_people_says_what_one_seed_is_worth(
    command: Command, trained: RunFolder, svm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = command("compare", svm, trained.path)
    assert done.status == 0
    assert "no: one seed" in done.out
    assert "train both sides with --train.seeds" in done.out
    assert "30 rows of" in done.out


@pytest.mark.slow
def test_seeds_are_compared_as_seeds(
    command: Command, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert command(*desk.words(train_seeds="0,1", train_epochs=1)).status == 0
    for name in ("majority", "svm"):
        rows = ["--data.train", desk.train, "--data.test", desk.test, "--model.backbone", desk.backbone]
        assert command("baseline", name, "--output", tmp_path / name, "--train.seeds", "0,1", *rows).status == 0
    done = command("compare", tmp_path / "svm", tmp_path / "majority", desk.run, "--json")
    result = json.loads(done.out)
    assert [row["seeds"] for row in result["runs"]] == [[0, 1]] * 3
    assert result["pairs"][0]["over_seeds"]["accuracy"]["test"] == "paired t over 2 seeds"
    assert result["pairs"][0]["finding"]
    shown = command("compare", tmp_path / "svm", tmp_path / "majority")
    assert "yes" in shown.out


def test_faults_are_told_in_one_line(command: Command, trained: RunFolder, svm: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "other.csv", articles(20, seed=9))
    assert command("evaluate", svm, "--data", other).status == 0
    for words, told in (
        ([trained.path], "give two runs or more"),
        ([trained.path, trained.path], "each once"),
        ([trained.path, tmp_path / "none"], "no such run folder"),
        ([trained.path, svm], "evaluated on different rows"),
        ([trained.path, svm, "--data", "none.csv"], "none.csv: no such file"),
    ):
        done = command("compare", *words)
        assert (done.status, done.out) == (2, "")
        assert told in done.err
        assert done.err.count("\n") == 1
