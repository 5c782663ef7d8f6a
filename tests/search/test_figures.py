"""The sweep's figures show the trials' numbers."""

from pathlib import Path

import numpy as np
import optuna
import pytest
from matplotlib.figure import Figure

from newslora.search import figures


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    for _ in range(12):
        trial = study.ask()
        lr, r = trial.suggest_float("train.lr", 1e-4, 1e-2, log=True), trial.suggest_categorical("lora.r", [2, 4, 8])
        accuracy = 0.5 + 0.05 * np.log10(lr / 1e-4) + 0.001 * int(r)
        for name, value in {"accuracy": float(accuracy), "parameters": 100 * int(r), "seconds": 3.0}.items():
            trial.set_user_attr(name, value)
        study.tell(trial, float(accuracy))
    return study


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    seen: list[Figure] = []
    save = figures.save_figure
    monkeypatch.setattr(figures, "save_figure", lambda figure, stem: (seen.append(figure), save(figure, stem))[1])
    return seen


def test_the_front_is_what_nothing_dominates() -> None:
    points = np.array([[1.0, 5.0], [2.0, 2.0], [3.0, 3.0], [5.0, 1.0], [2.0, 2.0], [1.0, 6.0]])
    assert figures.front(points).tolist() == [True, True, False, True, True, False]


def test_the_pareto_figure_marks_the_best_of_each_size(
    study: optuna.Study, drawn: list[Figure], tmp_path: Path
) -> None:
    path = figures.draw_pareto(study.trials, "accuracy", tmp_path)
    assert path.exists()
    assert path.with_suffix(".svg").exists()
    [line] = [line for line in drawn[0].axes[0].lines if line.get_label() == "Pareto front"]
    best = {r: max(t.values[0] for t in study.trials if t.user_attrs["parameters"] <= r) for r in (200, 400, 800)}
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)).items() <= best.items()
    assert np.asarray(line.get_ydata()).max() == max(best.values())


def test_what_matters_is_what_moves_the_objective(study: optuna.Study, drawn: list[Figure], tmp_path: Path) -> None:
    assert figures.draw_importance(study, ["train.lr", "lora.r"], "accuracy", tmp_path) is not None
    axes = drawn[0].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    widths = {name: bar.get_width() for name, bar in zip(names, axes.patches, strict=True)}  # type: ignore[attr-defined]
    assert widths["train.lr"] > 0.8 > widths["lora.r"]


def test_equal_trials_have_no_importance(tmp_path: Path) -> None:
    study = optuna.create_study()
    for _ in range(3):
        trial = study.ask()
        trial.suggest_float("train.lr", 0.0, 1.0)
        study.tell(trial, 0.5)
    assert figures.draw_importance(study, ["train.lr"], "accuracy", tmp_path) is None


def test_a_line_a_trial_ends_at_its_objective(study: optuna.Study, drawn: list[Figure], tmp_path: Path) -> None:
    figures.draw_parallel(study.trials, ["train.lr", "lora.r"], "accuracy", tmp_path)
    lines = drawn[0].axes[0].lines
    assert len(lines) == 12
    values = sorted(t.values[0] for t in study.trials)
    ends = sorted(float(np.asarray(line.get_ydata())[-1]) for line in lines)
    expected = [(value - values[0]) / (values[-1] - values[0]) for value in values]
    assert ends == pytest.approx(expected)
    places = {float(np.asarray(line.get_ydata())[1]) for line in lines}
    assert places == {0.0, 0.5, 1.0}


def test_the_grid_names_what_is_over_the_budget(drawn: list[Figure], tmp_path: Path) -> None:
    grid, names = np.array([[0.9, 0.8], [0.7, np.nan]]), ["lora.r", "lora.alpha/r"]
    figures.draw_grid(grid, {"lora.r": (2, 32), "lora.alpha/r": (1, 2)}, names, "accuracy", tmp_path)
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts == ["90.00%", "80.00%", "70.00%", "over budget"]
