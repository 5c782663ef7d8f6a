"""``newslora export``: a run as a Transformers folder or a graph for ONNX Runtime, checked on real rows."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from newslora.cli.commands import print_json
from newslora.inference.export import export_run


def export(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """Export the run, and say how the export answers beside it."""
    figures = export_run(options.run, options.format, Path(options.output), options.data)
    if options.json:
        print_json({"output": options.output, **figures})
        return
    console = Console()
    console.print(f"checked on {_told(figures)}", highlight=False, soft_wrap=True)
    size = figures["bytes"] / 1e6
    console.print(
        f"{options.format} export of {size:,.0f} MB written to {options.output}", highlight=False, soft_wrap=True
    )


def _told(figures: dict[str, Any]) -> str:
    text = (
        f"{figures['rows']:,} rows of {figures['source']}: labels agree on {figures['labels_agree']:.2%}, "
        f"logits differ by {figures['greatest_logit_difference']:.1e} at most"
    )
    if "accuracy" in figures:
        text += f", accuracy {figures['accuracy']['export']:.4f} (the run's {figures['accuracy']['model']:.4f})"
    return text
