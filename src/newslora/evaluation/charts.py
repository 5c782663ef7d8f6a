"""What the report's charts show, as plain values: the page's script draws them, a table beside each repeats them."""

from collections.abc import Sequence
from typing import Any

Chart = dict[str, Any]
Row = dict[str, Any]


def learning_charts(epochs: Sequence[Row], steps: Sequence[Row]) -> list[Chart]:
    """Return loss and accuracy as training progresses; none before the first epoch's end.

    Args:
        epochs: The rows of ``metrics.jsonl``.
        steps: The rows of ``steps.jsonl``.
    """
    if not epochs:
        return []
    numbers = [row["epoch"] for row in epochs]
    loss = [
        _series(
            "training, steps", [row["epoch"] for row in steps], [row["train_loss"] for row in steps], "blue", "faint"
        ),
        _series("training, epoch’s mean", numbers, [row["train_loss"] for row in epochs], "blue", "marked"),
        _series("validation", numbers, [row["val_loss"] for row in epochs], "orange", "dashed"),
    ]
    accuracy = [
        _series("training", numbers, [row["train_accuracy"] for row in epochs], "blue", "marked"),
        _series("validation", numbers, [row["val_accuracy"] for row in epochs], "orange", "dashed"),
    ]
    x = {"label": "epoch", "short": "epoch", "low": 0, "high": numbers[-1], "ticks": "whole"}
    nats = {"label": "cross-entropy (nats per article)", "format": "number"}
    share = {"label": "accuracy (share of articles)", "format": "percent"}
    return [
        _chart("loss", "Loss", x, nats, loss, _losses(epochs)),
        _chart("accuracy", "Accuracy", x, share, accuracy, _accuracies(epochs)),
    ]


def calibration_charts(results: Row) -> list[Chart]:
    """Return the reliability diagram, the spread of confidence and the error rate against coverage.

    Args:
        results: The content of ``evaluation.json``.
    """
    filled = [part for part in results["reliability"] if part["n"]]
    middle = [(part["low"] + part["high"]) / 2 for part in filled]
    x: Row = {"label": "confidence (probability of the prediction)", "short": "about"}
    x |= {"low": 0, "high": 1, "format": "percent"}
    reliability = [
        _series("accuracy", middle, [part["accuracy"] for part in filled], "blue", "bars"),
        _series("mean confidence", middle, [part["confidence"] for part in filled], "orange", "points"),
        _series("perfectly calibrated", [0, 1], [0, 1], "muted", "rule"),
    ]
    counts = [_series("articles", middle, [part["n"] for part in filled], "blue", "bars")]
    share = {"label": "accuracy (share of articles)", "format": "percent", "low": 0, "high": 1}
    return [
        _chart("reliability", "Confidence against accuracy", x, share, reliability, _bins(filled)),
        _chart(
            "confidences", "How confident it is", x, {"label": "articles", "format": "count", "low": 0}, counts, None
        ),
        _coverage(results["risk_coverage"]),
    ]


def _coverage(risk: Row) -> Chart:
    points = risk["points"]
    # Evaluations of earlier versions hold the points alone; uPlot wants ascending places.
    curve = risk.get("curve") or sorted([row["coverage"], row["error_rate"]] for row in points)
    series = [_series("error rate", [place for place, _ in curve], [rate for _, rate in curve], "orange", "line")]
    head = ["articles answered", "least confidence answered", "error rate"]
    rows = [[f"{row['coverage']:.0%}", f"{row['confidence']:.1%}", f"{row['error_rate']:.2%}"] for row in points]
    x = {"label": "coverage (share of articles answered)", "short": "coverage", "format": "percent"}
    y = {"label": "error rate (share of answers)", "format": "percent", "low": 0}
    return _chart("coverage", "If it may abstain", x, y, series, (head, rows))


def _chart(
    name: str, title: str, x: Row, y: Row, series: list[Row], table: tuple[list[str], list[list[str]]] | None
) -> Chart:
    drawn = [one for one in series if one["x"]]
    summary = f"{title}: {', '.join(one['label'] for one in drawn)}. {y['label']} against {x['label']}."
    head, rows = table or ([], [])
    return {
        "name": name,
        "title": title,
        "summary": summary,
        "x": x,
        "y": y,
        "series": drawn,
        "head": head,
        "rows": rows,
    }


def _series(label: str, x: Sequence[float], y: Sequence[float], colour: str, style: str) -> Row:
    return {"label": label, "x": list(x), "y": list(y), "colour": colour, "style": style}


def _losses(epochs: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    rows = [[str(row["epoch"]), f"{row['train_loss']:.4f}", f"{row['val_loss']:.4f}"] for row in epochs]
    return ["epoch", "training loss", "validation loss"], rows


def _accuracies(epochs: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    columns = ("train_accuracy", "val_accuracy", "val_macro_f1")
    rows = [[str(row["epoch"]), *(f"{row[name]:.2%}" for name in columns)] for row in epochs]
    return ["epoch", "training accuracy", "validation accuracy", "validation macro F1"], rows


def _bins(filled: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            f"{row['low']:.0%} to {row['high']:.0%}",
            f"{row['n']:,}",
            f"{row['confidence']:.1%}",
            f"{row['accuracy']:.1%}",
        ]
        for row in filled
    ]
    return ["confidence", "articles", "mean confidence", "accuracy"], rows
