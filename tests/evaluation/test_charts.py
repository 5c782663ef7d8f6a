import numpy as np

from newslora.evaluation.charts import calibration_charts, learning_charts
from newslora.evaluation.metrics import measure

EPOCHS = [
    {"epoch": k, "train_loss": 1 / k, "val_loss": 1.1 / k, "train_accuracy": 0.5 + k / 10, "val_accuracy": 0.4 + k / 10, "val_macro_f1": 0.4}
    for k in (1, 2, 3)
]  # fmt: skip
STEPS = [{"epoch": k / 10, "train_loss": 2 - k / 20, "step": k} for k in range(1, 31)]


def test_curves_hold_what_training_wrote() -> None:
    loss, accuracy = learning_charts(EPOCHS, STEPS)
    steps, training, validation = loss["series"]
    assert (steps["x"], steps["y"]) == ([row["epoch"] for row in STEPS], [row["train_loss"] for row in STEPS])
    assert (training["y"], validation["y"]) == ([1, 1 / 2, 1 / 3], [1.1, 1.1 / 2, 1.1 / 3])
    assert [one["label"] for one in accuracy["series"]] == ["training", "validation"]
    assert accuracy["rows"][2] == ["3", "80.00%", "70.00%", "40.00%"]
    assert loss["y"]["label"] == "cross-entropy (nats per article)"


def test_curves_without_steps_or_epochs() -> None:
    assert learning_charts([], []) == []
    assert [one["label"] for one in learning_charts(EPOCHS, [])[0]["series"]] == [
        "training, epoch’s mean",
        "validation",
    ]


def test_calibration_holds_the_filled_bins_alone() -> None:
    generator = np.random.default_rng(0)
    results = measure(generator.dirichlet([1.0, 1.0, 1.0], size=200), generator.integers(0, 3, size=200), "abc")
    reliability, spread, coverage = calibration_charts(results)
    filled = [part for part in results["reliability"] if part["n"]]
    assert len(filled) < len(results["reliability"])
    assert reliability["series"][0]["y"] == [part["accuracy"] for part in filled]
    assert sum(spread["series"][0]["y"]) == 200
    assert len(reliability["rows"]) == len(filled)
    [errors] = coverage["series"]
    assert errors["x"] == sorted(errors["x"])
    assert errors["y"][-1] == 1 - results["accuracy"]
