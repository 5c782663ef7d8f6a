"""Comparisons of answers written by hand or drawn by seed."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from newslora.errors import NewsloraError
from newslora.evaluation.compare import compare, disagreements, write_disagreements
from newslora.evaluation.metrics import bootstrap_intervals
from newslora.evaluation.predictions import Contender, Predictions

NAMES = ("Weather", "Courts", "Farming")  # in no alphabetical order
ROWS = 600
TRUTH = [NAMES[i % 3] for i in range(ROWS)]


def answers(name: str, accuracy: float, seed: int, texts: list[str] | None = None) -> Predictions:
    generator = np.random.default_rng(seed)
    predicted = [label if generator.random() < accuracy else NAMES[(NAMES.index(label) + 1) % 3] for label in TRUTH]
    return Predictions(Path(name), "test.csv", NAMES, [str(i) for i in range(ROWS)], TRUTH, predicted, texts)


def single(name: str, accuracy: float, seed: int = 0, baseline: str | None = None) -> Contender:
    return Contender(name, baseline, (), (answers(name, accuracy, seed),))


def several(name: str, accuracy: float, first: int = 0, seeds: int = 5) -> Contender:
    runs = tuple(answers(f"{name}/seed-{seed}", accuracy, first + seed) for seed in range(seeds))
    return Contender(name, None, tuple(range(seeds)), runs)


def test_a_single_runs_row_is_that_of_its_evaluation() -> None:
    run = single("run", 0.8)
    row = compare([run, single("svm", 0.7, 1, "svm")])["runs"][0]
    predicted = run.runs[0].predicted
    assert row["accuracy"] == accuracy_score(TRUTH, predicted)
    assert row["macro_f1"] == pytest.approx(f1_score(TRUTH, predicted, average="macro"))
    assert row["interval_95"] == bootstrap_intervals(confusion_matrix(TRUTH, predicted, labels=NAMES))
    assert (row["seeds"], row["baseline"], row["over_seeds"]) == ([], None, None)


def test_two_baselines_without_chance_may_differ_by_one_run_each() -> None:
    results = compare([single("svm", 0.9, 0, "svm"), single("majority", 0.7, 1, "majority")])
    [pair] = results["pairs"]
    assert (pair["run"], pair["reference"]) == ("majority", "svm")
    assert pair["accuracy_difference"] == pytest.approx(results["runs"][1]["accuracy"] - results["runs"][0]["accuracy"])
    low, high = pair["interval_95"]["accuracy"]
    assert low < pair["accuracy_difference"] < high < 0
    assert pair["mcnemar"]["p"] < 1e-6
    assert (pair["finding"], pair["seeds_known"], pair["over_seeds"]) == (True, True, None)
    assert results["notes"] == []


@pytest.mark.parametrize("baseline", [None, "fasttext"])
def test_a_difference_of_one_seed_is_never_a_finding(baseline: str | None) -> None:
    results = compare([single("svm", 0.5, 0, "svm"), single("run", 0.95, 1, baseline)])
    [pair] = results["pairs"]
    assert pair["mcnemar"]["p"] < 1e-12
    assert not pair["finding"]
    assert "single seed" in results["notes"][0]


def test_one_seed_against_several_is_no_finding_either() -> None:
    results = compare([several("many", 0.95), single("one", 0.5, 9)])
    assert not results["pairs"][0]["finding"]
    assert "no finding in 1 of 1 differences" in results["notes"][0]


def test_seeds_against_a_baseline_and_against_seeds() -> None:
    results = compare([several("best", 0.9), single("svm", 0.7, 20, "svm"), several("paper", 0.8, 30)])
    svm, paper = results["pairs"]
    assert svm["mcnemar"] is None
    assert svm["over_seeds"]["accuracy"]["test"] == "t over 5 seeds"
    assert paper["over_seeds"]["accuracy"]["test"] == "paired t over 5 seeds"
    assert svm["finding"]
    assert paper["finding"]
    best = results["runs"][0]
    assert best["accuracy"] == pytest.approx(np.mean(best["over_seeds"]["accuracy"]["values"]))
    low, high = best["interval_95"]["accuracy"]
    assert low < best["accuracy"] < high
    assert "2 comparisons" in results["notes"][0]


def test_other_seeds_are_not_paired() -> None:
    results = compare([several("five", 0.9), several("three", 0.9, 50, 3)])
    [pair] = results["pairs"]
    assert pair["over_seeds"]["macro_f1"]["test"] == "Welch's t over 3 and 5 seeds"


def test_seeds_of_one_setting_are_no_finding() -> None:
    assert not compare([several("a", 0.85), several("b", 0.85, 100)])["pairs"][0]["finding"]


def test_what_the_rows_alone_could_do_is_no_finding() -> None:
    """Seeds that all agree, on too few differing rows to tell."""
    same = answers("a", 0.8, 0)
    flipped = list(same.predicted)
    wrong = [row for row in range(ROWS) if flipped[row] != TRUTH[row]][:2]
    for row in wrong:
        flipped[row] = TRUTH[row]
    better = Predictions(Path("b"), same.source, NAMES, same.places, same.labels, flipped)
    results = compare([Contender("a", None, (0, 1), (same,) * 2), Contender("b", None, (0, 1), (better,) * 2)])
    [pair] = results["pairs"]
    assert pair["over_seeds"]["accuracy"]["p"] == 0.0
    assert pair["bootstrap_p"]["accuracy"] > 0.05
    assert not pair["finding"]


def test_the_order_of_label_names_plays_no_part() -> None:
    """Runs may have learned the labels in another order; answers are told by name."""
    one, other = single("a", 0.8, 3, "svm"), single("b", 0.8, 3, "svm")
    results = compare([one, other])
    assert results["pairs"][0]["accuracy_difference"] == 0
    assert results["pairs"][0]["mcnemar"]["p"] == results["pairs"][0]["bootstrap_p"]["accuracy"] == 1.0
    assert results["disagreements"] == 0


def test_disagreements_are_written_with_their_texts(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(ROWS)]
    runs = tuple(answers("x", 0.9, seed, texts) for seed in range(3))
    contenders = [Contender("runs/x", None, (0, 1, 2), runs), Contender("y", "svm", (), (answers("y", 0.9, 9, texts),))]
    write_disagreements(contenders, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == disagreements(contenders)
    assert len(rows) == compare(contenders)["disagreements"]
    for row in rows:
        number = int(row["place"])
        given = [run.predicted[number] for run in runs]
        assert row["runs/x"] == max(sorted(set(given)), key=given.count) != row["y"]
        assert (row["label"], row["text"]) == (TRUTH[number], f"text {number}")


def test_other_rows_are_refused() -> None:
    one, other = answers("a", 0.8, 0), answers("b", 0.8, 1)
    fewer = Predictions(other.run, other.source, NAMES, other.places[1:], other.labels[1:], other.predicted[1:])
    elsewhere = Predictions(other.run, "other.csv", NAMES, other.places, other.labels, other.predicted)
    for side in (fewer, elsewhere):
        with pytest.raises(NewsloraError, match=r"a on 600 rows of test\.csv and b on .*; give --data FILE"):
            compare([Contender("a", None, (), (one,)), Contender("b", None, (), (side,))])
