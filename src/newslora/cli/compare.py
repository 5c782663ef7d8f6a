"""``newslora compare``: runs on the same rows, with intervals and paired tests."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from newslora.cli import commands, display
from newslora.errors import NewsloraError
from newslora.evaluation.compare import compare as compare_contenders
from newslora.evaluation.compare import write_disagreements
from newslora.evaluation.predictions import read_contender
from newslora.model.memory import keep_memory


def compare(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """Compare runs with the first one, and write the rows on which they disagree if asked to."""
    if len(set(options.runs)) < max(2, len(options.runs)):
        raise NewsloraError("newslora compare: give two runs or more, each once; the others are held against the first")
    keep_memory()
    with display.counter(Console(stderr=True), "classifying") as advance:
        contenders = [read_contender(Path(run), options.data, advance) for run in options.runs]
    results = compare_contenders(contenders)
    if options.output:
        write_disagreements(contenders, Path(options.output))
        results["disagreements_file"] = options.output
    if options.json:
        commands.print_json(results)
    else:
        show(Console(), results)


def show(console: Console, results: dict[str, Any]) -> None:
    """Show a comparison: a row a run, a row a difference, and what to make of them."""
    console.print(f"{results['n']:,} rows of {results['source']}", highlight=False, soft_wrap=True)
    console.print(_runs(results))
    console.print(_pairs(results))
    where = f", written to {results['disagreements_file']}" if "disagreements_file" in results else ""
    notes = [f"they disagree on {results['disagreements']:,} rows{where}", *results["notes"], results["method"]]
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _runs(results: dict[str, Any]) -> Table:
    table = Table("run", "seeds", "accuracy", "95% interval, rows", "sd, seeds", "macro-F1", "95% interval, rows")
    for row in results["runs"]:
        spread = row["over_seeds"]
        table.add_row(
            row["run"],
            str(len(row["seeds"]) or 1),
            f"{row['accuracy']:.4f}",
            _range(row["interval_95"]["accuracy"]),
            f"{spread['accuracy']['sd']:.4f}" if spread else "–",
            f"{row['macro_f1']:.4f}",
            _range(row["interval_95"]["macro_f1"]),
        )
    return table


def _pairs(results: dict[str, Any]) -> Table:
    reference = results["runs"][0]["run"]
    table = Table(f"against {reference}", "accuracy", "95% interval", "p, rows", "McNemar p", "p, seeds", "a finding?")
    for pair in results["pairs"]:
        seeds = pair["over_seeds"]
        table.add_row(
            pair["run"],
            f"{pair['accuracy_difference']:+.4f}",
            _range(pair["interval_95"]["accuracy"], "+.4f"),
            _p(pair["bootstrap_p"]["accuracy"]),
            _p(pair["mcnemar"]["p"]) if pair["mcnemar"] else "–",
            _p(seeds["accuracy"]["p"]) if seeds else "–",
            _verdict(pair),
        )
    return table


def _verdict(pair: dict[str, Any]) -> str:
    if not pair["seeds_known"]:
        return "no: one seed"
    return "yes" if pair["finding"] else "no"


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def _range(bounds: list[float], form: str = ".4f") -> str:
    low, high = bounds
    return f"{low:{form}} to {high:{form}}"
