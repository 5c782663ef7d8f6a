"""``newslora predict``: texts on the command line, or the rows of a file; with an ONNX export without PyTorch."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from newslora.cli.commands import print_json
from newslora.errors import NewsloraError
from newslora.inference.bulk import BulkResult, predict_file
from newslora.inference.classifier import NewsClassifier
from newslora.model.memory import keep_memory


def predict(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """Classify what is given and print or write the answers."""
    if bool(options.texts) == bool(options.input):
        raise NewsloraError("newslora predict: give either TEXT … or --input FILE")
    keep_memory()
    if options.input:
        _predict_file(options)
        return
    if options.engine == "ray":
        raise NewsloraError("--engine ray: classifies files; give --input and --output")
    classifier = NewsClassifier.load(options.run)
    answers = classifier.predict(options.texts)
    if options.json:
        print_json(answers)
    else:
        _show(Console(), options.texts, answers)


def _predict_file(options: argparse.Namespace) -> None:
    console = Console(stderr=True)
    with _progress(console) as (advance, share), _resumable(options.output):
        say: dict[str, Any] = {
            "text": options.text.split(",") if options.text else None,
            "on_error": options.on_error,
            "progress": advance,
            "skipped": lambda reason: console.print(
                f"skipped: {reason}", highlight=False, markup=False, soft_wrap=True
            ),
            "note": lambda line: console.print(line, highlight=False, markup=False),
        }
        output = options.output or "-"
        if options.engine == "ray":
            result = _predict_on_ray(options, output, say)
        else:
            classifier = NewsClassifier.load(options.run)
            result = predict_file(classifier, options.input, output, share=share, **say)
    console.print(f"{result.written:,} rows written, {result.skipped:,} skipped", highlight=False)


def _predict_on_ray(options: argparse.Namespace, output: str, say: dict[str, Any]) -> BulkResult:
    from newslora.scale import require_ray

    require_ray("newslora predict")
    from newslora.scale.predict import predict_files

    return predict_files(options.run, options.input, output, workers=options.workers, **say)


@contextmanager
def _resumable(output: str | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted" + ("; the same command goes on" if output else "")) from None


@contextmanager
def _progress(console: Console) -> Iterator[tuple[Callable[[int], None], Callable[[float], None]]]:
    """Show rows done, rate and time left; hand out what takes how many more are done, and the share that is read."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} articles"))
    left = (TextColumn("{task.fields[rate]}/s"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(
        *columns, *left, console=console, disable=not console.is_terminal, speed_estimate_period=120
    ) as shown:
        task = shown.add_task("classifying", total=None, rate="–")
        read = [0.0]

        def advance(done: int) -> None:
            state = shown.tasks[0]
            total = (state.completed + done) / read[0] if read[0] else None
            shown.update(task, advance=done, total=total, rate=f"{state.speed:,.0f}" if state.speed else "–")

        yield advance, lambda share: read.__setitem__(0, share)


def _show(console: Console, texts: Sequence[str], results: Sequence[dict[str, Any]]) -> None:
    """Show a line for each classified text."""
    for text, answer in zip(texts, results, strict=True):
        short = text if len(text) <= 60 else f"{text[:57]}…"
        labels = answer.get("labels", [answer.get("label")])
        shown = ", ".join(f"{label} ({answer['scores'][label]:.1%})" for label in labels) or "no label"
        console.print(f"{shown}  {short}", highlight=False, markup=False)
