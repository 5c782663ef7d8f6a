"""What a sweep leaves on disk: its trials as a table, the best settings, the grid's table, the figures."""

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import binomtest

from newslora.files import write_text, writing
from newslora.search import figures as draw
from newslora.search.figures import Cell
from newslora.search.trials import Trials

_RESULTS = ("accuracy", "macro_f1", "parameters", "seconds", "n")


def write_records(board: Trials, output: Path, *, figures: bool = False) -> None:
    """Write ``trials.csv``, ``best.yaml``, for a grid of two settings ``table.md``, and the figures if asked for."""
    _write_table(board, output / "trials.csv")
    best = board.best()
    if best is not None:
        board.space.config(best.params).save(output / "best.yaml")
    cells = grid_cells(board)
    if cells:
        write_text(output / "table.md", _markdown(board, cells))
    if figures:
        _draw(board, output / "figures", cells)


def grid_cells(board: Trials) -> dict[tuple[Any, Any], Cell]:
    """Return the mean of the first objective by the values of a grid's two settings; nothing for another space.

    The interval is Wilson's (1927) at 95% for a share of the validation rows; it leaves out the training seed.
    """
    names = list(board.space.dimensions)
    if len(names) != 2 or not board.space.grid():
        return {}
    by_values = {tuple(trial.params[name] for name in names): trial for trial in board.done()}
    return {values: _cell(trial) for values, trial in by_values.items()}


def _cell(trial: FrozenTrial) -> Cell:
    value, rows = float(trial.values[0]), int(trial.user_attrs["n"])
    interval = binomtest(round(value * rows), rows).proportion_ci(method="wilson")
    return Cell(value, float(interval.low), float(interval.high), int(trial.user_attrs["parameters"]))


def _write_table(board: Trials, path: Path) -> None:
    names = list(board.space.dimensions)
    with writing(path) as staged, staged.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", *names, *_RESULTS, "key"])
        for trial in board.taken():
            state = "pruned" if trial.state == TrialState.PRUNED else trial.state.name.lower()
            results = (trial.user_attrs.get(name, "") for name in _RESULTS)
            params = (trial.params[name] for name in names)
            writer.writerow([trial.number, state, *params, *results, trial.user_attrs["key"]])


def _markdown(board: Trials, cells: dict[tuple[Any, Any], Cell]) -> str:
    down, across = board.space.dimensions
    rows, columns = _values(board)
    rows_of = next(iter(board.done())).user_attrs["n"]
    lines = [
        f"Validation {board.objectives[0]} on {rows_of:,} rows, 95% interval (Wilson), trainable parameters:",
        "",
        f"| {down} \\ {across} | " + " | ".join(map(str, columns)) + " |",
        "|---:|" + "---|" * len(columns),
    ]
    for row in rows:
        texts = (_text(cells.get((row, column))) for column in columns)
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return f"{cell.value:.4f} ({cell.low:.4f} to {cell.high:.4f}), {cell.parameters:,}"


def _draw(board: Trials, folder: Path, cells: dict[tuple[Any, Any], Cell]) -> None:
    done, objective = board.done(), board.objectives[0]
    if cells:
        names = list(board.space.dimensions)
        grid = np.array([[_value(cells, pair) for pair in line] for line in _pairs(board)])
        draw.draw_grid(grid, board.space.dimensions, names, objective, folder)
    if len(done) > 1:
        draw.draw_pareto(done, objective, folder)
        draw.draw_parallel(done, list(board.space.dimensions), objective, folder)
        draw.draw_importance(board.study, list(board.space.dimensions), objective, folder)


def _pairs(board: Trials) -> list[list[tuple[Any, Any]]]:
    rows, columns = _values(board)
    pairs = list(itertools.product(rows, columns))
    return [pairs[start : start + len(columns)] for start in range(0, len(pairs), len(columns))]


def _values(board: Trials) -> list[tuple[Any, ...]]:
    return [values for values in board.space.dimensions.values() if isinstance(values, tuple)]  # a grid has no ranges


def _value(cells: dict[tuple[Any, Any], Cell], pair: tuple[Any, Any]) -> float:
    return cells[pair].value if pair in cells else np.nan
