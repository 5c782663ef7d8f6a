"""The figures of a sweep: Pareto front, importance, parallel coordinates, and the table of a grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, PercentFormatter
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from newslora.evaluation.figures import BLUE, GREY, ORANGE, STYLE, save_figure


@dataclass(frozen=True)
class Cell:
    """One cell of a grid's table.

    Attributes:
        value: The objective.
        low: Lower end of its 95% interval.
        high: Upper end.
        parameters: Trainable parameters.
    """

    value: float
    low: float
    high: float
    parameters: int


def front(points: np.ndarray) -> np.ndarray:
    """Return which points no other one dominates, bool [points].

    Args:
        points: [points, objectives], all to be made small.
    """
    worse = np.all(points[:, None] >= points[None], axis=-1) & np.any(points[:, None] > points[None], axis=-1)
    result: np.ndarray = ~np.any(worse, axis=1)
    return result


def draw_pareto(trials: Sequence[FrozenTrial], objective: str, folder: Path) -> Path:
    """Draw the objective against the trainable parameters, the front marked, the training time as colour."""
    quality = np.array([trial.user_attrs[objective] for trial in trials])
    parameters = np.array([trial.user_attrs["parameters"] for trial in trials])
    seconds = [trial.user_attrs["seconds"] for trial in trials]
    best = np.flatnonzero(front(np.stack([-quality, parameters], axis=1)))
    best = best[np.argsort(parameters[best])]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 4.2), layout="constrained")
        axes = figure.subplots()
        dots = axes.scatter(parameters, quality, c=seconds, cmap="cividis", s=28)
        figure.colorbar(dots, ax=axes, label="training time (seconds)")
        axes.plot(parameters[best], quality[best], color=ORANGE, drawstyle="steps-post", label="Pareto front")
        axes.scatter(parameters[best], quality[best], facecolors="none", edgecolors=ORANGE, s=80)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("trainable parameters")
        _share(axes, objective)
        axes.legend(loc="best")
        figure.suptitle("What more parameters buy")
        return save_figure(figure, folder / "pareto")


def draw_importance(study: optuna.Study, names: Sequence[str], objective: str, folder: Path) -> Path | None:
    """Draw how much of the objective's variance each setting explains (fANOVA, Hutter et al. 2014).

    Returns:
        The PNG's path; None where all trials are alike, so that there is nothing to explain.
    """
    evaluator = FanovaImportanceEvaluator(seed=0)
    try:
        shares = get_param_importances(
            study, evaluator=evaluator, params=list(names), target=lambda trial: float(trial.values[0])
        )
    except (RuntimeError, ValueError):  # Optuna's words for too few trials, or equal ones
        return None
    ordered = sorted(shares, key=lambda name: shares[name])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 1.2 + 0.4 * len(ordered)), layout="constrained")
        axes = figure.subplots()
        axes.barh(ordered, [shares[name] for name in ordered], color=BLUE)
        axes.set_xlabel(f"share of the variance of {_words(objective)} (fANOVA)")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        figure.suptitle("What matters")
        return save_figure(figure, folder / "importance")


def draw_parallel(trials: Sequence[FrozenTrial], names: Sequence[str], objective: str, folder: Path) -> Path:
    """Draw each trial as a line through its settings to its objective, the better the darker."""
    quality = np.array([trial.user_attrs[objective] for trial in trials])
    columns = [[trial.params[name] for trial in trials] for name in names]
    axis_places, ticks = zip(
        *(_places(column, trials[0].distributions[n]) for n, column in zip(names, columns, strict=True)),
        strict=True,
    )
    span = max(float(np.ptp(quality)), 1e-12)
    lines = np.stack([*axis_places, (quality - quality.min()) / span], axis=1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(6.0, 1.5 * lines.shape[1]), 4.2), layout="constrained")
        axes = figure.subplots()
        for place in np.argsort(quality):  # the best ones on top
            strength = lines[place, -1]
            colour = ORANGE if place == int(np.argmax(quality)) else BLUE
            axes.plot(range(lines.shape[1]), lines[place], color=colour, alpha=0.15 + 0.75 * strength)
        for x, marks in enumerate([*ticks, {0.0: f"{quality.min():.4f}", 1.0: f"{quality.max():.4f}"}]):
            for y, text in marks.items():
                axes.text(x + 0.03, y, text, fontsize=7, color=GREY, va="center")
        axes.set_xticks(range(lines.shape[1]), [*names, _words(objective)], rotation=20, ha="right")
        axes.set_yticks([])
        figure.suptitle("Every trial, the best in orange")
        return save_figure(figure, folder / "parallel")


def draw_grid(
    grid: np.ndarray, dimensions: Mapping[str, Any], names: Sequence[str], objective: str, folder: Path
) -> Path:
    """Draw a grid's table as a map.

    Args:
        grid: The objective [first setting's values, second setting's], NaN where nothing fits the budget.
        dimensions: The values, by name.
        names: The two settings.
        objective: Its name.
        folder: Where ``grid.png`` and ``.svg`` go.
    """
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(2.4 + 1.0 * grid.shape[1], 1.6 + 0.6 * grid.shape[0]), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(grid, cmap="cividis", aspect="auto")
        figure.colorbar(image, ax=axes, label=_words(objective), format=PercentFormatter(1.0))
        middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
        for (row, column), value in np.ndenumerate(grid):
            text = "over budget" if np.isnan(value) else f"{value:.2%}"
            colour = "black" if np.isnan(value) or value > middle else "white"
            axes.text(column, row, text, ha="center", va="center", color=colour)
        axes.set_yticks(range(grid.shape[0]), list(map(str, dimensions[names[0]])))
        axes.set_xticks(range(grid.shape[1]), list(map(str, dimensions[names[1]])))
        axes.set_ylabel(names[0])
        axes.set_xlabel(names[1])
        return save_figure(figure, folder / "grid")


def _places(values: Sequence[Any], distribution: BaseDistribution) -> tuple[np.ndarray, dict[float, str]]:
    """Return where a setting's values lie between 0 and 1, and what to write there."""
    choices = getattr(distribution, "choices", None)
    if choices is not None:
        last = max(len(choices) - 1, 1)
        marks = {position / last: str(choice) for position, choice in enumerate(choices)}
        return np.array([list(choices).index(value) / last for value in values]), marks
    assert isinstance(distribution, FloatDistribution | IntDistribution)  # noqa: S101 - there is no other kind
    scale = np.log if distribution.log else np.asarray
    low, high = float(scale(distribution.low)), float(scale(distribution.high))
    where = (np.asarray(scale(np.asarray(values, dtype=float))) - low) / (high - low)
    return where, {0.0: f"{distribution.low:g}", 1.0: f"{distribution.high:g}"}


def _share(axes: Axes, objective: str) -> None:
    axes.set_ylabel(f"validation {_words(objective)}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _words(objective: str) -> str:
    return objective.replace("_f1", " F1")
