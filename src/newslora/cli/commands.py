"""What each command does with its parsed options: call one function below and print what comes back."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from newslora.cli import speaks
from newslora.config import RunConfig, load_config
from newslora.errors import NewsloraError

if TYPE_CHECKING:
    from newslora.training.run_folder import RunFolder

HEADLINE = "Striker scores twice as the visitors win the cup final in extra time"


def quickstart(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora quickstart``: the main job on the packaged sample and backbone."""
    from newslora.cli import display
    from newslora.inference.classifier import NewsClassifier

    run = run_training(load_config(preset="quickstart"), Path(options.output), resume=False, to_json=options.json)
    if options.json or not speaks():
        return
    [answer] = NewsClassifier.load(run).predict([HEADLINE])
    display.headline(Console(), HEADLINE, answer, run)


def plan(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora plan``: LoRA configurations against the budget."""
    from newslora.cli import display
    from newslora.model.backbone import load_config as load_backbone_config
    from newslora.model.budget import Planner, as_rows
    from newslora.model.saving import savings

    config = load_backbone_config(options.model, options.revision)
    plans = Planner(config, options.labels, options.model).plans(options.budget)
    default = RunConfig()
    upper = savings(config, options.labels, options.model, default.lora.targets, default.model.head, default.lora.r)
    if options.json:
        asked = {"model": options.model, "labels": options.labels, "budget": options.budget}
        print_json(asked | {"plans": as_rows(plans), "upper_layers": [asdict(saving) for saving in upper]})
    else:
        display.plans(Console(), plans, options)
        display.savings(Console(), upper)


def train(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora train``: fine-tune, evaluate, draw."""
    output = Path(options.output or datetime.now().astimezone().strftime("runs/%Y%m%d-%H%M%S"))
    source = Path(options.config) if options.config else None
    if options.resume:
        if options.output is None:
            raise NewsloraError("--resume: needs the run to go on with; give --output RUN")
        source = source or output / "config.yaml"
    config = load_config(source, options.preset, settings)
    go, more = _on_ray(options) if options.engine == "ray" else (None, "")
    run_training(config, output, resume=options.resume, to_json=options.json, go=go, more=more)


def _on_ray(options: argparse.Namespace) -> tuple[Callable[..., "RunFolder"], str]:
    from newslora.scale import require_ray

    require_ray("newslora train")
    from newslora.scale.train import train_on_ray

    more = " --engine ray" + (f" --workers {options.workers}" if options.workers else "")
    return partial(train_on_ray, workers=options.workers), more


def evaluate(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora evaluate``: a run on a labelled table."""
    from newslora.cli import display
    from newslora.evaluation.evaluate import evaluate_run
    from newslora.model.memory import keep_memory
    from newslora.training.run_folder import RunFolder

    keep_memory()
    output = Path(options.output) if options.output else None
    with display.counter(Console(stderr=True), "evaluating") as advance:
        run = RunFolder.open(Path(options.run))
        results = evaluate_run(run, options.data, output, shift=options.shift, progress=advance)
    if options.json:
        print_json(results)
    else:
        display.evaluation(Console(), results, (output or Path(options.run)))


def predict(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora predict``: texts on the command line, or a file."""
    from newslora.cli.predict import predict as run

    run(options, settings)


def audit(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora audit``: which labels of a table are probably wrong."""
    from newslora.cli.audit import audit as run

    run(options, settings)


def run_training(
    config: RunConfig,
    output: Path,
    *,
    resume: bool,
    to_json: bool,
    go: Callable[..., "RunFolder"] | None = None,
    more: str = "",
) -> Path:
    """Train and show it; return the run's folder.

    Args:
        config: The settings.
        output: The run folder.
        resume: Go on from its last checkpoint.
        to_json: Print for programs.
        go: Another engine than this process.
        more: What the command has to say for that engine.
    """
    if config.train.seeds is not None:
        from newslora.cli.seeds import run_seeds

        return run_seeds(config, output, resume=resume, to_json=to_json, go=go, more=more)
    from newslora.cli import display
    from newslora.workflow import train as run_here

    try:
        shown = Console(stderr=to_json, quiet=not speaks())
        with display.result_alone(to_json), display.training(shown) as report:
            run = (go or run_here)(config, output, resume=resume, report=report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; newslora train --resume --output {output}{more} goes on") from None
    if not speaks():
        return run.path
    results = json.loads(run.evaluation_file.read_text(encoding="utf-8")) if run.evaluation_file.exists() else None
    if to_json:
        print_json({"run": str(run.path), "metrics": run.metrics(), "evaluation": results})
    else:
        display.finished(Console(), run, results)
    return run.path


def print_json(values: object) -> None:
    """Print a result for programs."""
    json.dump(values, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def baseline(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora baseline``: what a fine-tuned run has to beat."""
    from newslora.cli.baseline import baseline as run

    run(options, settings)


def compare(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora compare``: runs on the same rows."""
    from newslora.cli.compare import compare as run

    run(options, settings)


def sweep(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora sweep``: settings tried within the budget."""
    from newslora.cli.sweep import sweep as run

    run(options, settings)


def distill(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora distill``: a smaller student of a run."""
    from newslora.cli.distill import distill as run

    run(options, settings)


def export(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora export``: a run in the form that production reads."""
    from newslora.cli.export import export as run

    run(options, settings)


def fuse(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora fuse``: the adapters of several runs as one."""
    from newslora.search.fuse import fuse as run

    made = run(
        [Path(name) for name in options.runs],
        Path(options.output),
        options.method,
        data=options.data,
        overrides=settings,
    )
    Console().print(f"adapter: {made.adapter}", highlight=False, soft_wrap=True)
