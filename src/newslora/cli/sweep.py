"""``newslora sweep``: settings tried within the budget, chosen by validation figures."""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console

from newslora.errors import NewsloraError

if TYPE_CHECKING:
    from newslora.search.sweep import TrialDone
    from newslora.search.trials import Objective, Trials

OBJECTIVES = ("accuracy", "macro_f1", "parameters", "seconds")


def sweep(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """Try settings until there are enough trials, a line each, and say which are best."""
    from newslora.search.space import read_space

    space = read_space(Path(options.config) if options.config else None, options.preset, settings)
    objectives = _objectives(options.objectives)
    if importlib.util.find_spec("optuna") is None:
        raise NewsloraError("newslora sweep: Optuna is not installed; pip install 'newslora[search]'")
    from newslora.cli.display import result_alone

    run = _engine(options)
    console, output = Console(stderr=options.json), Path(options.output)
    with result_alone(options.json):
        board = run(
            space,
            output,
            trials=options.trials,
            objectives=objectives,
            storage=Path(options.storage) if options.storage else None,
            report=lambda done: console.print(_line(done, objectives[0]), highlight=False, soft_wrap=True),
        )
    _finish(console, board, output, to_json=options.json)


def _engine(options: argparse.Namespace) -> "Callable[..., Trials]":
    if options.engine == "local":
        from newslora.search.sweep import sweep

        return sweep
    from newslora.scale import require_ray

    require_ray("newslora sweep")
    from newslora.scale.sweep import sweep_on_ray

    return partial(sweep_on_ray, workers=options.workers)


def _objectives(text: str) -> "tuple[Objective, ...]":
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [name for name in names if name not in OBJECTIVES]
    if unknown:
        raise NewsloraError(f"--objectives: {unknown[0]!r} is none of {', '.join(OBJECTIVES)}")
    return cast("tuple[Objective, ...]", names)


def _line(done: "TrialDone", objective: str) -> str:
    values = ", ".join(f"{name} {_short(value)}" for name, value in done.values.items())
    if done.result is None:
        return f"trial {done.number}: given up ({values})"
    result = done.result
    mark = "  best so far" if done.best else ""
    return (
        f"trial {done.number}: {objective.replace('_f1', ' F1')} {result[objective]:.4f}, "
        f"{result['parameters']:,.0f} parameters, {result['seconds']:.0f} s ({values}){mark}"
    )


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _finish(console: Console, board: "Trials", output: Path, *, to_json: bool) -> None:
    from newslora.cli.commands import print_json

    best = board.best()
    counts = {"trials": len(board.taken()), "finished": len(board.done())}
    if to_json:
        found = None if best is None else {"trial": best.number, "values": best.values, "settings": best.params}
        print_json({"output": str(output), **counts, "best": found})
        return
    console.print(f"{counts['finished']} of {counts['trials']} trials ran to their end", highlight=False)
    if best is not None:
        text = f"best settings: {output / 'best.yaml'}; newslora train {output / 'best.yaml'} --output RUN"
        console.print(text, highlight=False, soft_wrap=True)
