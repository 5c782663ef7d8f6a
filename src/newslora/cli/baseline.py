"""``newslora baseline``: majority, TF-IDF, fastText or a linear probe, on a run's rows."""

import argparse
import json
from pathlib import Path

from rich.console import Console

from newslora.baseline import train_baseline
from newslora.cli import commands, display
from newslora.cli.seeds import show_seeds
from newslora.config import RunConfig, load_config
from newslora.errors import NewsloraError
from newslora.evaluation.baselines import find_baseline
from newslora.seeds import baseline_seeds
from newslora.training.run_folder import RunFolder


def baseline(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """Fit a baseline, over several seeds where ``train.seeds`` asks for it, and show how well it does."""
    find_baseline(options.name)
    output = Path(options.output)
    source = Path(options.config) if options.config else output / "config.yaml" if options.resume else None
    config = load_config(source, options.preset, settings)
    if config.train.seeds is not None:
        again = f"newslora baseline {options.name} --resume --output {output}"
        show_seeds(
            lambda report: baseline_seeds(options.name, config, output, resume=options.resume, report=report),
            again,
            to_json=options.json,
        )
    elif options.resume:
        raise NewsloraError("--resume: a baseline of one seed is quick and starts over; choose another --output")
    else:
        _single(options.name, config, output, to_json=options.json)


def _single(name: str, config: RunConfig, output: Path, *, to_json: bool) -> None:
    with display.training(Console(stderr=to_json)) as report:
        run = train_baseline(name, config, output, report=report)
    results = _results(run)
    if to_json:
        commands.print_json({"run": str(run.path), "baseline": name, "evaluation": results})
    elif results is not None:
        display.evaluation(Console(), results, run.path)
    else:
        Console().print(f"written to {run.path} (no test table given)", highlight=False, soft_wrap=True)


def _results(run: RunFolder) -> dict[str, object] | None:
    file = run.evaluation_file
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
