"""The figures of a run, as PNG and SVG: learning curves, confusion matrix, reliability, risk and coverage.

Colours are Okabe & Ito's (2008) and matplotlib's cividis, which colour-blind readers tell apart. A figure is drawn on
its own canvas, so that threads do not share state, and the same numbers give the same SVG, byte for byte.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from newslora.files import writing
from newslora.training.run_folder import RunFolder

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
STYLE: Any = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "svg.hashsalt": "newslora",
}


def draw_learning_curves(run: RunFolder) -> Path:
    """Draw the paper's figure 1: loss and accuracy of training and validation as training progresses.

    Args:
        run: A run folder with ``metrics.jsonl`` and, for the loss within epochs, ``steps.jsonl``.

    Returns:
        ``figures/validation_loss.png``; the SVG stands beside it.
    """
    epochs, steps = run.metrics(), run.steps()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 5.6), layout="constrained")
        loss, accuracy = figure.subplots(2, 1, sharex=True)
        _draw_loss(loss, epochs, steps)
        _draw_accuracy(accuracy, epochs)
        _mark_best((loss, accuracy), epochs, run.config().train.best_by)
        figure.suptitle("Training and validation as training progresses")
        return save_figure(figure, run.figures / "validation_loss")


def draw_confusion(matrix: Sequence[Sequence[int]], names: Sequence[str], folder: Path, title: str) -> Path:
    """Draw the paper's figure 2: the confusion matrix, each cell with its count and its share of the row.

    Args:
        matrix: Counts, a row for each true class and a column for each predicted one.
        names: The classes' names, in order.
        folder: Where ``confusion_matrix.png`` and ``.svg`` go.
        title: What was evaluated.

    Returns:
        The PNG's path.
    """
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(6.0, 1.6 + 0.55 * len(names))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side, side * 0.87), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(share, cmap="cividis", vmin=0.0, vmax=1.0)
        figure.colorbar(
            image, ax=axes, shrink=0.75, label="share of the true class's articles", format=PercentFormatter(1.0)
        )
        _write_cells(axes, counts, share)
        _name_classes(axes, names)
        figure.suptitle(title)
        return save_figure(figure, folder / "confusion_matrix")


def draw_reliability(bins: Sequence[dict[str, Any]], ece: float, folder: Path, title: str) -> Path:
    """Draw the reliability diagram (Guo et al. 2017, figure 1): accuracy against confidence, and where the rows lie.

    Args:
        bins: As :func:`newslora.evaluation.calibration.reliability_bins` gives them.
        ece: The expected calibration error over these bins.
        folder: Where ``reliability.png`` and ``.svg`` go.
        title: What was evaluated.

    Returns:
        The PNG's path.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 5.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _draw_bins(above, bins, ece)
        _draw_histogram(below, bins)
        figure.suptitle(title)
        return save_figure(figure, folder / "reliability")


def draw_risk_coverage(risk_coverage: dict[str, Any], folder: Path, title: str) -> Path:
    """Draw how the error rate falls when the model abstains on its least confident articles (El-Yaniv & Wiener 2010).

    Beside it stand what abstaining at random would give, and the least that any order of confidence could.

    Args:
        risk_coverage: As :func:`newslora.evaluation.calibration.risk_coverage` gives it.
        folder: Where ``risk_coverage.png`` and ``.svg`` go.
        title: What was evaluated.

    Returns:
        The PNG's path.
    """
    coverage, risk = np.transpose(risk_coverage["curve"])
    least = np.maximum(0.0, 1.0 - (1.0 - risk[-1]) / coverage)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(coverage, np.full_like(risk, risk[-1]), color=GREY, linestyle="--", label="abstaining at random")
        axes.plot(coverage, risk, color=BLUE, label=f"by confidence (mean {risk_coverage['aurc']:.2%})")
        axes.plot(coverage, least, color=ORANGE, linestyle=":", label="mistakes left first (the least possible)")
        axes.set(xlabel="coverage (share of articles answered)", ylabel="error rate (share of those answered)")
        axes.set(xlim=(0, 1), ylim=(0, None))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="center left")
        figure.suptitle(title)
        return save_figure(figure, folder / "risk_coverage")


def _draw_loss(axes: Axes, epochs: list[dict[str, Any]], steps: list[dict[str, Any]]) -> None:
    numbers = [row["epoch"] for row in epochs]
    if steps:
        place, loss = [row["epoch"] for row in steps], [row["train_loss"] for row in steps]
        axes.plot(
            place, loss, color=BLUE, alpha=0.4, linewidth=0.8, marker=".", markersize=2.5, label="training, steps"
        )
        per_epoch = steps[-1]["step"] / steps[-1]["epoch"]
        above = axes.secondary_xaxis("top", functions=(lambda x: x * per_epoch, lambda x: x / per_epoch))
        above.set_xlabel("step")
    axes.plot(numbers, [row["train_loss"] for row in epochs], color=BLUE, marker="o", label="training, epoch's mean")
    axes.plot(
        numbers, [row["val_loss"] for row in epochs], color=ORANGE, marker="s", linestyle="--", label="validation"
    )
    axes.set_ylabel("cross-entropy (nats per article)")
    axes.legend(loc="best")  # named: the default warns where drawing is slow


def _draw_accuracy(axes: Axes, epochs: list[dict[str, Any]]) -> None:
    numbers = [row["epoch"] for row in epochs]
    axes.plot(numbers, [row["train_accuracy"] for row in epochs], color=BLUE, marker="o", label="training")
    validation = [row["val_accuracy"] for row in epochs]
    axes.plot(numbers, validation, color=ORANGE, marker="s", linestyle="--", label="validation")
    axes.set_ylabel("accuracy (share of articles)")
    axes.set_xlabel("epoch")
    axes.set_xlim(0, numbers[-1] * 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.legend(loc="lower right")


def _mark_best(panels: Sequence[Axes], epochs: list[dict[str, Any]], best_by: str) -> None:
    pick = min(epochs, key=lambda row: row["val_loss"] if best_by == "loss" else -row["val_macro_f1"])
    for axes in panels:
        axes.axvline(pick["epoch"], color=GREEN, linestyle=":", label=f"best epoch ({pick['epoch']})")
        axes.legend(loc="best")  # named: the default warns where drawing is slow


def _write_cells(axes: Axes, counts: np.ndarray, share: np.ndarray) -> None:
    size = 9 if len(counts) <= 8 else 6.5
    for (row, column), count in np.ndenumerate(counts):
        # cividis runs from dark to light; at half its range both white and black are readable.
        colour = "white" if share[row, column] < 0.5 else "black"
        text = f"{count:,}\n{share[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    long = len(names) > 6 or max(len(name) for name in names) > 10
    turned: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(len(names)), names, **turned)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted class (articles)")
    axes.set_ylabel("true class (articles)")


def _draw_bins(axes: Axes, bins: Sequence[dict[str, Any]], ece: float) -> None:
    filled = [part for part in bins if part["n"]]
    left, width = [part["low"] for part in filled], filled[0]["high"] - filled[0]["low"]
    accuracy = [part["accuracy"] for part in filled]
    axes.bar(
        left, accuracy, width, align="edge", color=BLUE, alpha=0.75, edgecolor="white", label="accuracy in the bin"
    )
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="perfectly calibrated")
    confidence = [part["confidence"] for part in filled]
    axes.plot(confidence, accuracy, color=ORANGE, marker="o", linestyle="none", label="at the bin's mean confidence")
    axes.set_ylabel("accuracy (share of articles)")
    axes.set_ylim(0, 1)
    axes.text(
        0.98, 0.04, f"ECE {ece:.3f}", transform=axes.transAxes, ha="right", bbox={"facecolor": "white", "alpha": 0.9}
    )
    axes.legend(loc="upper left")


def _draw_histogram(axes: Axes, bins: Sequence[dict[str, Any]]) -> None:
    left, width = [part["low"] for part in bins], bins[0]["high"] - bins[0]["low"]
    axes.bar(left, [part["n"] for part in bins], width, align="edge", color=GREY, edgecolor="white")
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("articles (log scale)")
    axes.set_xlabel("confidence (probability of the predicted class)")
    axes.set_xlim(0, 1)


def save_figure(figure: Figure, stem: Path) -> Path:
    """Write a figure as ``stem.png`` and ``stem.svg``; return the former."""
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    with writing(svg) as staged:
        figure.savefig(staged, format="svg", metadata={"Date": None})
    with writing(png) as staged:
        figure.savefig(staged, format="png", dpi=160)
    return png
