"""What a person at a terminal sees: progress, tables, one clear line an epoch."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from newslora.data.prepare import Prepared
from newslora.data.story import RowCounts
from newslora.model.budget import Plan
from newslora.model.saving import Saving
from newslora.training.progress import EpochDone, Event, Restarted, Started, StepDone, StepSkipped
from newslora.training.run_folder import RunFolder
from newslora.workflow import Built

Message = Event | Prepared | RowCounts | Built


def result_alone(to_json: bool) -> AbstractContextManager[object]:
    """For JSON, keep from standard output what others print there meanwhile: Ray tells of lost workers."""
    return redirect_stdout(sys.stderr) if to_json else nullcontext()


@contextmanager
def training(console: Console) -> Iterator[Callable[[Message], None]]:
    """Show a run's progress; hand out the function that takes its messages."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[rate]} articles/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = progress.add_task("training", total=None, loss="–", rate="–")

    def show(message: Message) -> None:
        match message:
            case StepDone():
                rate = f"{message.samples_per_second:.0f}"
                progress.update(
                    task, completed=message.step, total=message.steps, loss=f"{message.loss:.3f}", rate=rate
                )
            case _:
                _say(console, message)

    with progress:
        yield show


def _say(console: Console, message: Message) -> None:
    match message:
        case Prepared():
            text = _prepared(message.counts())
        case RowCounts():
            text = _prepared(message)
        case Built():
            text = _built(message)
        case Started():
            text = _started(message)
        case EpochDone():
            text = _epoch(message)
        case Restarted():
            text = "a worker was lost; all start again from the last checkpoint"
        case StepSkipped():
            text = f"step {message.step} left out: {message.reason}"
        case _:
            return
    console.print(text, highlight=False, soft_wrap=True)


def _prepared(rows: RowCounts) -> str:
    test = "" if rows.test is None else f", {rows.test:,} test"
    more = " and more while training," if rows.streamed else ""
    return (
        f"data: {rows.train:,} training,{more} {rows.validation:,} validation{test} articles; "
        f"{rows.dropped:,} filtered out; classes {', '.join(rows.names)}"
    )


def _built(built: Built) -> str:
    counts = built.counts
    return (
        f"model: {built.backbone}, {counts.trainable:,} trainable of {counts.total:,} parameters "
        f"({counts.trainable / built.budget:.0%} of the budget of {built.budget:,})"
    )


def _started(started: Started) -> str:
    since = f", resumed after step {started.step:,} from {started.checkpoint}" if started.checkpoint else ""
    damaged = f"; passed over damaged {', '.join(map(str, started.damaged))}" if started.damaged else ""
    return f"training: {started.steps:,} steps on {started.device} in {started.precision}{since}{damaged}"


def _epoch(done: EpochDone) -> str:
    row = done.metrics
    mark = "  best so far" if done.best else ""
    return (
        f"epoch {row['epoch']}: train loss {row['train_loss']:.4f}, validation loss {row['val_loss']:.4f}, "
        f"accuracy {row['val_accuracy']:.4f}, macro-F1 {row['val_macro_f1']:.4f}, "
        f"{row['samples_per_second']:.0f} articles/s, {row['seconds']:.0f} s{mark}"
    )


@contextmanager
def counter(console: Console, what: str) -> Iterator[Callable[[int], None]]:
    """Count rows with their rate; hand out the function that takes how many more are done."""
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} articles"))
    rate = TextColumn("{task.speed:,.0f}/s") if console.is_terminal else TextColumn("")
    with Progress(*columns, rate, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done: progress.advance(task, done)


def finished(console: Console, run: RunFolder, results: dict[str, Any] | None) -> None:
    """Say where a finished run stands and how well it did."""
    if results is not None:
        evaluation(console, results, run.path)
    else:
        best = max(run.metrics(), key=lambda row: row["val_macro_f1"])
        console.print(f"validation accuracy {best['val_accuracy']:.4f} (no test table given)", highlight=False)
    report = f"report: {run.report}\n" if run.report.exists() else ""
    console.print(
        f"{report}figures: {run.figures}\nmodel card: {run.card}\nadapter: {run.adapter}",
        highlight=False,
        soft_wrap=True,
    )


def evaluation(console: Console, results: dict[str, Any], folder: Path) -> None:
    """Show an evaluation: accuracy with its interval, a row a class."""
    table = Table("class", *(name for name in ("precision", "recall", "F1", "articles")))
    for name, row in results["per_class"].items():
        table.add_row(name, *(f"{row[key]:.4f}" for key in ("precision", "recall", "f1")), f"{row['support']:,.0f}")
    console.print(table)
    low, high = results["interval_95"]["accuracy"]
    several = results.get("task") == "multi-label"
    more = f"Hamming loss {results['hamming_loss']:.4f}" if several else f"calibration error {results['ece']:.4f}"
    console.print(
        f"{'subset ' if several else ''}accuracy {results['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f}, "
        f"{results['n']:,} articles), macro-F1 {results['macro_f1']:.4f}, {more}",
        highlight=False,
    )
    console.print(f"written to {folder}", highlight=False, soft_wrap=True)


def headline(console: Console, text: str, answer: dict[str, Any], run: Path) -> None:
    """Show one classified headline and the command that classifies another."""
    console.print(f"“{text}” → {answer['label']} ({answer['score']:.0%})", highlight=False)
    console.print(f'try your own: newslora predict {run} "…"', highlight=False, soft_wrap=True)


SHOWN_RANKS = (4, 8, 16, 32)


def plans(console: Console, rows: Sequence[Plan], options: argparse.Namespace) -> None:
    """Show trainable parameters by targets and head (rows) and rank (columns)."""
    table = Table(
        *("targets", "head"),
        *(f"r={r}" for r in SHOWN_RANKS),
        "greatest r",
        title=f"{options.model}, {options.labels} labels: trainable parameters within {options.budget:,}",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    groups: dict[tuple[tuple[str, ...], str], dict[int, Plan]] = {}
    for plan in rows:
        groups.setdefault((plan.targets, plan.head), {})[plan.r] = plan
    for (targets, head), by_rank in groups.items():
        best = max((plan for plan in by_rank.values() if plan.fits), key=lambda plan: plan.r, default=None)
        cells = (f"{by_rank[r].trainable:,}" if by_rank[r].fits else "over" for r in SHOWN_RANKS)
        table.add_row(",".join(targets), head, *cells, f"{best.r}: {best.trainable:,}" if best else "none")
    console.print(table)
    console.print("every configuration with its exact counts, over budget too: --json", highlight=False)


def savings(console: Console, rows: Sequence[Saving]) -> None:
    """Show what LoRA in the upper layers only costs and saves."""
    if not rows:
        return
    heads = ("--lora.layers", "trainable", "work, 1st epoch", "work, later epochs", "cache, MB per million tokens")
    table = Table(
        *heads,
        title="LoRA in upper layers, the layers below run once (other settings default)",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for row in rows:
        work = (f"{row.first_epoch:.1%}", f"{row.later_epochs:.1%}")
        table.add_row(row.layers, f"{row.trainable:,}", *work, f"{row.bytes_per_token:,}")
    console.print(table)
