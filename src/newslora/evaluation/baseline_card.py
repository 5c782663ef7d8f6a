"""The README of a baseline's folder: which baseline, on what, how well it does."""

from pathlib import Path

from newslora.evaluation.baseline_state import read_baseline
from newslora.evaluation.card import read_record
from newslora.files import write_text
from newslora.training.run_folder import RunFolder


def write_baseline_card(run: RunFolder) -> Path:
    """Write ``README.md`` into a baseline's folder.

    Args:
        run: The baseline's folder; its ``evaluation.json`` is told of where there is one.

    Returns:
        The card's path.
    """
    about, config = read_baseline(run.baseline), run.config()
    rows = read_record(run.path / "data_report.json").get("rows", {})
    lines = [
        f"# {run.path.resolve().name}",
        "",
        f"The baseline `{about['baseline']}`: nothing is fine-tuned here. {about['parameters']:,} numbers were learned "
        f"from {rows.get('train', 0):,} rows of `{config.data.train}` (seed {config.train.seed}).",
        "",
        f"Classes: {', '.join(about['labels'])}.",
    ]
    write_text(run.card, "\n".join([*lines, *_results(run)]) + "\n")
    return run.card


def _results(run: RunFolder) -> list[str]:
    results = read_record(run.evaluation_file)
    if not results:
        return []
    shown = [
        f"{title} {results[key]:.4f} (95% interval {low:.4f} to {high:.4f})"
        for title, key in (("accuracy", "accuracy"), ("macro F1", "macro_f1"))
        for low, high in [results["interval_95"][key]]
    ]
    return ["", f"On {results['n']:,} rows of `{results['source']}`: {', '.join(shown)}."]
