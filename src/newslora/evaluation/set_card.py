"""The model card's results where an article carries several labels."""

from collections.abc import Mapping, Sequence
from typing import Any

_FIGURES = {"subset accuracy": "accuracy", "micro F1": "micro_f1", "macro F1": "macro_f1"}


def describe_sets(results: Mapping[str, Any], table: Sequence[str]) -> str:
    """Return the card's part on results.

    Args:
        results: As :func:`newslora.evaluation.multilabel.measure_sets` returns them, with ``source``.
        table: Lines of the table of labels.
    """
    lines = ["## Results", "", f"On {results['n']:,} rows of `{results['source']}`:", ""]
    lines += ["| figure | value | 95% interval |", "|---|---:|---:|"]
    for title, name in _FIGURES.items():
        low, high = results["interval_95"][name]
        lines.append(f"| {title} | {results[name]:.4f} | {low:.4f} to {high:.4f} |")
    lines.append(f"| Hamming loss | {results['hamming_loss']:.4f} | |")
    about = f"Interval: {results['interval_method']}. Each label's threshold maximises its F1 on validation rows."
    return "\n".join([*lines, "", about, "", *table])
