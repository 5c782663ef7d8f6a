"""What several seeds of one setting give: mean, spread and interval, on validation and on test rows."""

import json
from collections.abc import Mapping
from typing import Any

from newslora.evaluation.baseline_state import read_baseline
from newslora.evaluation.card import read_record
from newslora.evaluation.paired import spread
from newslora.files import write_text
from newslora.training.run_folder import RunFolder

_FIGURES = ("accuracy", "macro_f1")


def write_seeds(run: RunFolder, singles: Mapping[int, RunFolder]) -> dict[str, Any]:
    """Write ``seeds.json`` into the folder that holds a finished run for each seed.

    Args:
        run: The folder.
        singles: The runs by seed.

    Returns:
        Its content: ``seeds``; ``validation`` and, with a test table, ``test``, each with ``accuracy`` and ``macro_f1``
        as :func:`newslora.evaluation.paired.spread` gives them, in the seeds' order; and ``interval_method``.
    """
    tests = [read_record(single.evaluation_file) for single in singles.values()]
    record = {
        "seeds": list(singles),
        "validation": _spreads([_validation(single) for single in singles.values()]),
        "test": _spreads(tests) if all(tests) else None,
        "interval_method": f"Student's t over {len(singles)} seeds: covers the choice of seed (split, weights, "
        "batches), not of test rows",
    }
    write_text(run.seeds_file, json.dumps(record, indent=2) + "\n")
    return record


def _spreads(figures: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: spread([single[name] for single in figures]) for name in _FIGURES}


def _validation(run: RunFolder) -> dict[str, Any]:
    """Return a run's figures on its validation rows, at the epoch that was kept."""
    if run.is_baseline:
        return dict(read_baseline(run.baseline)["validation"])
    by_loss = run.config().train.best_by == "loss"
    best = min(run.metrics(), key=lambda row: row["val_loss"] if by_loss else -row["val_macro_f1"])
    return {name: best[f"val_{name}"] for name in _FIGURES}
