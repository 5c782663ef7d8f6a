"""``newslora distill``: a smaller student of a run."""

import argparse
from pathlib import Path

from newslora.search.students import student_config


def distill(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """Train a student as ``newslora train`` does, on what its teacher says."""
    from newslora.cli.commands import run_training

    config = student_config(
        Path(options.run),
        layers=options.layers,
        backbone=options.backbone,
        unlabelled=options.unlabelled,
        overrides=settings,
    )
    run_training(config, Path(options.output), resume=options.resume, to_json=options.json)
