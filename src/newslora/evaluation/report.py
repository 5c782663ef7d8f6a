"""The run's ``report.html``: one self-contained page made of what stands in the run folder."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from newslora.config import RunConfig, section_type
from newslora.evaluation.card import read_record
from newslora.evaluation.charts import calibration_charts, learning_charts
from newslora.evaluation.environment import FILE_NAME, describe_environment
from newslora.evaluation.page import render
from newslora.files import write_text
from newslora.training.run_folder import RunFolder

Row = dict[str, Any]
_LEVELS: Final = 10
_MOST_CLASSES_AS_BUTTONS: Final = 20
_REASONS: Final = {
    "flagged": "flagged by an audit: the label is more probably wrong than right",
    "empty": "nothing is left after the repair",
    "non_letters": "mostly digits and signs: a table or a ticker, no article",
    "too_short": "too few tokens to tell a topic",
    "too_long": "too many tokens for a news item",
    "label_conflict": "the same text stands under two labels, so one of them is wrong",
    "duplicate": "repeats an earlier row",
    "near_duplicate": "all but repeats an earlier row: it would weigh twice, or stand among the validation rows",
}
_FILES: Final = (
    "evaluation.json",
    "predictions.csv",
    "data_report.json",
    "config.yaml",
    "metrics.jsonl",
    "figures/validation_loss.png",
    "figures/confusion_matrix.png",
    "figures/reliability.png",
    "figures/risk_coverage.png",
)


def write_report(run: RunFolder, rows: Sequence[Row] = (), folder: Path | None = None) -> Path:
    """Write ``report.html``: how a run was trained and does, where it fails, on which data, and how to repeat it.

    The page loads nothing: style, script and the chart library are inside, and it works from a disk, offline.

    Args:
        run: A trained run.
        rows: The telling rows of the evaluated table, from :func:`newslora.evaluation.rows.telling_rows`.
        folder: Where the evaluation stands and the page goes; the run folder when not given.

    Returns:
        The page's path.
    """
    place, config = folder or run.path, run.config()
    results = read_record(place / "evaluation.json")
    epochs = run.metrics()
    values = {
        "name": run.path.resolve().name,
        "config": config,
        "results": results,
        "best": _best(epochs, config),
        "seconds": sum(row.get("seconds", 0) for row in epochs),
        "learning": learning_charts(epochs, run.steps()),
        "calibration": calibration_charts(results) if results else [],
        "confusion": _confusion(results) if results else [],
        "buttons": len(results.get("labels", ())) <= _MOST_CLASSES_AS_BUTTONS,
        "rows": rows,
        "shift": _shift(results),
        "slices": _slices(results),
        "story": _story(read_record(run.path / "data_report.json")),
        "settings": _settings(config),
        "trained_with": read_record(run.path / FILE_NAME),
        "written_with": describe_environment(),
        "command": _command(run, config),
        "files": [name for name in _FILES if (place / name).is_file()],
    }
    path = place / "report.html"
    write_text(path, render("report.html.jinja", values))
    return path


def _best(epochs: Sequence[Row], config: RunConfig) -> Row | None:
    by_loss = config.train.best_by == "loss"
    return min(epochs, key=lambda row: row["val_loss"] if by_loss else -row["val_macro_f1"], default=None)


def _confusion(results: Row) -> list[list[Row]]:
    """Return each cell's count, share of its row and shade, 0 to 10; a mistake is shaded against the commonest one."""
    counts = np.asarray(results["confusion_matrix"])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = share * ~np.eye(len(counts), dtype=bool)
    scale = np.where(np.eye(len(counts), dtype=bool), share, wrong / max(wrong.max(), 1e-12))
    shade = np.ceil(_LEVELS * scale).astype(int)
    return [
        [
            {"n": int(counts[i, j]), "share": float(share[i, j]), "shade": int(shade[i, j]), "right": i == j}
            for j in range(len(counts))
        ]
        for i in range(len(counts))
    ]


def _shift(results: Row) -> Row | None:
    shift: Row | None = results.get("shift")
    if not shift:
        return None
    return shift | _scale([0.0, *(bound for row in shift["variants"] for bound in row.get("difference_95", ()))])


def _slices(results: Row) -> Row | None:
    parts = results.get("slices")
    if not parts:
        return None
    scale = _scale([results["accuracy"], *(bound for part in parts for bound in part["interval_95"]["accuracy"])])
    return {"parts": parts} | scale


def _scale(bounds: Sequence[float]) -> Row:
    """Return the ends of the scale on which intervals are drawn, with a little room on both sides."""
    low, high = min(bounds), max(bounds)
    room = max(0.05 * (high - low), 1e-3)
    return {"low": low - room, "high": high + room}


def _story(report: Row) -> Row | None:
    if not report:
        return None
    filters = [
        {"name": name.replace("_", " "), "why": _REASONS.get(name, ""), **part}
        for name, part in report.get("filters", {}).items()
    ]
    classes, rows = report.get("classes", {}), report.get("rows", {})
    sides = [
        {"name": side, "rows": rows[side], "classes": classes.get(side, {})}
        for side in ("train", "validation", "test")
        if side in rows
    ]
    return {
        "tables": report["tables"],
        "filters": filters,
        "dropped": sum(part["rows"] for part in filters),
        "most": max((part["rows"] for part in filters), default=0),
        "sides": sides,
        "leaks": report.get("leaks", {}),
    }


def _settings(config: RunConfig) -> list[Row]:
    """Return every setting with its value, its default, whether they differ, and what it means."""
    return [
        {
            "name": f"{section}.{name}",
            "value": _as_text(getattr(getattr(config, section), name)),
            "default": _as_text(field.default),
            "changed": getattr(getattr(config, section), name) != field.default,
            "about": field.description,
        }
        for section in RunConfig.model_fields
        for name, field in section_type(section).model_fields.items()
    ]


def _as_text(value: object) -> str:
    """Return a setting's value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).removesuffix(".0")


def _command(run: RunFolder, config: RunConfig) -> Mapping[str, str]:
    name = run.path.resolve().name
    changed = (f"--{row['name']} {shlex.quote(row['value'])}" for row in _settings(config) if row["changed"])
    return {
        "train": " \\\n    ".join(["newslora train", *changed, f"--output {shlex.quote(f'{name}-again')}"]),
        "settings": f"newslora train {shlex.quote(f'{name}/config.yaml')} --output {shlex.quote(f'{name}-again')}",
    }
