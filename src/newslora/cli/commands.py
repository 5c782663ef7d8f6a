"""What each command does with its parsed options: call one function below and print what comes back."""

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from newslora.cli import display
from newslora.config import RunConfig, load_config
from newslora.errors import NewsloraError

if TYPE_CHECKING:
    from newslora.inference.classifier import NewsClassifier

HEADLINE = "Striker scores twice as the visitors win the cup final in extra time"


def quickstart(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora quickstart``: the main job on the packaged sample and backbone."""
    from newslora.inference.classifier import NewsClassifier

    run = _run_training(load_config(preset="quickstart"), Path(options.output), resume=False, to_json=options.json)
    [answer] = NewsClassifier.load(run).predict([HEADLINE])
    if not options.json:
        display.headline(Console(), HEADLINE, answer, run)


def plan(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora plan``: LoRA configurations against the budget."""
    from newslora.model.backbone import load_config as load_backbone_config
    from newslora.model.budget import Planner, as_rows

    planner = Planner(load_backbone_config(options.model, options.revision), options.labels, options.model)
    plans = planner.plans(options.budget)
    if options.json:
        _print_json(
            {"model": options.model, "labels": options.labels, "budget": options.budget, "plans": as_rows(plans)}
        )
    else:
        display.plans(Console(), plans, options)


def train(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora train``: fine-tune, evaluate, draw."""
    output = Path(options.output or datetime.now().astimezone().strftime("runs/%Y%m%d-%H%M%S"))
    source = Path(options.config) if options.config else None
    if options.resume:
        if options.output is None:
            raise NewsloraError("--resume: needs the run to go on with; give --output RUN")
        source = source or output / "config.yaml"
    config = load_config(source, options.preset, settings)
    _run_training(config, output, resume=options.resume, to_json=options.json)


def evaluate(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora evaluate``: a run on a labelled table."""
    from newslora.evaluation.evaluate import evaluate_run
    from newslora.model.memory import keep_memory
    from newslora.training.run_folder import RunFolder

    keep_memory()
    output = Path(options.output) if options.output else None
    with display.counter(Console(stderr=True), "evaluating") as advance:
        results = evaluate_run(RunFolder.open(Path(options.run)), options.data, output, progress=advance)
    if options.json:
        _print_json(results)
    else:
        display.evaluation(Console(), results, (output or Path(options.run)))


def predict(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """``newslora predict``: texts on the command line, or a file."""
    from newslora.inference.classifier import NewsClassifier
    from newslora.model.memory import keep_memory

    if bool(options.texts) == bool(options.input):
        raise NewsloraError("newslora predict: give either TEXT … or --input FILE")
    keep_memory()
    classifier = NewsClassifier.load(options.run)
    if options.input:
        _predict_file(classifier, options)
        return
    answers = classifier.predict(options.texts)
    if options.json:
        _print_json(answers)
    else:
        display.answers(Console(), options.texts, answers)


def _predict_file(classifier: "NewsClassifier", options: argparse.Namespace) -> None:
    from newslora.inference.bulk import predict_file

    console = Console(stderr=True)
    with display.counter(console, "classifying") as advance:
        result = predict_file(
            classifier,
            options.input,
            options.output or "-",
            text=options.text.split(",") if options.text else None,
            on_error=options.on_error,
            progress=advance,
            skipped=lambda reason: console.print(f"skipped: {reason}", highlight=False, markup=False),
        )
    console.print(f"{result.written:,} rows written, {result.skipped:,} skipped", highlight=False)


def _run_training(config: RunConfig, output: Path, *, resume: bool, to_json: bool) -> Path:
    from newslora.workflow import train as run_workflow

    try:
        with display.training(Console(stderr=to_json)) as report:
            run = run_workflow(config, output, resume=resume, report=report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; newslora train --resume --output {output} goes on") from None
    results = json.loads(run.evaluation_file.read_text(encoding="utf-8")) if run.evaluation_file.exists() else None
    if to_json:
        _print_json({"run": str(run.path), "metrics": run.metrics(), "evaluation": results})
    else:
        display.finished(Console(), run, results)
    return run.path


def _print_json(values: object) -> None:
    json.dump(values, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
