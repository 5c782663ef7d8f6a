"""Runs over several seeds at the terminal: each seed's progress, then mean, spread and interval."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from newslora.cli import commands, display, speaks
from newslora.config import RunConfig
from newslora.training.run_folder import RunFolder

TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
Train = Callable[[Callable[[display.Message], None]], RunFolder]


def run_seeds(
    config: RunConfig,
    output: Path,
    *,
    resume: bool,
    to_json: bool,
    go: Callable[..., RunFolder] | None = None,
    more: str = "",
) -> Path:
    """Train each seed and show what they give together; return the folder; ``go`` and ``more`` as for one seed."""
    from newslora.seeds import train_seeds

    return show_seeds(
        lambda report: (go or train_seeds)(config, output, resume=resume, report=report),
        f"newslora train --resume --output {output}{more}",
        to_json=to_json,
    )


def show_seeds(train: Train, resume: str, *, to_json: bool) -> Path:
    """Run a training of several seeds and show its ``seeds.json``; ``resume`` is the command that goes on with it."""
    try:
        shown = Console(stderr=to_json, quiet=not speaks())
        with display.result_alone(to_json), display.training(shown) as report:
            run = train(report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {resume} goes on") from None
    if speaks():
        record = json.loads(run.seeds_file.read_text(encoding="utf-8"))
        if to_json:
            commands.print_json({"run": str(run.path), **record})
        else:
            spread(Console(), record, run.path)
    return run.path


def spread(console: Console, record: dict[str, Any], folder: Path) -> None:
    """Show mean, spread and interval over seeds."""
    table = Table("rows", "figure", "mean", "sd over seeds", "95% interval of the mean")
    for side in ("validation", "test"):
        for name, figures in (record[side] or {}).items():
            low, high = figures["interval_95"]
            table.add_row(
                side, TITLES[name], f"{figures['mean']:.4f}", f"{figures['sd']:.4f}", f"{low:.4f} to {high:.4f}"
            )
    console.print(table)
    console.print(f"{record['interval_method']}\nwritten to {folder}", highlight=False, soft_wrap=True)
