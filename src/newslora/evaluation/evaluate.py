"""From logits or a labelled file to ``evaluation.json``, ``predictions.csv`` and figures."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from newslora.config import DataConfig
from newslora.errors import NewsloraError
from newslora.evaluation.baseline_card import write_baseline_card
from newslora.evaluation.calibration import calibration_error
from newslora.evaluation.card import write_card
from newslora.evaluation.figures import draw_confusion, draw_reliability, draw_risk_coverage
from newslora.evaluation.metrics import measure, top_confusions
from newslora.evaluation.multilabel import evaluate_sets
from newslora.evaluation.report import write_report
from newslora.evaluation.rows import telling_rows
from newslora.evaluation.scoring import Scored, score_run
from newslora.evaluation.shift import Rows, measure_shift, read_titles
from newslora.evaluation.slices import measure_slices
from newslora.files import write_text, writing
from newslora.model.budget import Counts
from newslora.model.temperature import load_temperature, probabilities
from newslora.training.run_folder import RunFolder


def evaluate_run(
    run: RunFolder,
    source: str,
    output: Path | None = None,
    *,
    data: DataConfig | None = None,
    shift: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a trained run on a labelled table, with the run's own label names and cleaner.

    Args:
        run: A run or a baseline.
        source: A file or a hub data set's id.
        output: Folder for the results; the run folder itself when not given, whose evaluation, model card and report
            are then replaced.
        data: How to read the table (columns, split); as the run's own tables when not given.
        shift: Whether changed versions of the rows are measured too; see
            :func:`newslora.evaluation.shift.measure_shift`.
        progress: Called with the number of articles done since the last call.

    Returns:
        The content of ``evaluation.json``; see :func:`evaluate_logits` and
        :func:`newslora.evaluation.slices.measure_slices`; of a run with several labels an article
        :func:`newslora.evaluation.multilabel.evaluate_sets`.

    Raises:
        NewsloraError: The table cannot be read, has no labels, or has one that the run does not know.
    """
    own = run.config().data
    scored = score_run(run, source, data or own, progress)
    if own.multi_label:
        return _evaluate_sets(run, scored, source, output, shift)
    extra = measure_slices(scored.texts, scored.tokens, scored.labels, scored.logits, own)
    if shift:
        extra["shift"] = _shift(scored, data or own, progress)
    results = evaluate_logits(
        run,
        scored.logits,
        scored.labels.tolist(),
        names=scored.names,
        places=scored.table.places,
        texts=scored.texts,
        source=source,
        counts=scored.counts,
        output=output,
        extra=extra,
    )
    if output is None:
        describe(run)  # the card tells of the evaluation that was just replaced
    return results


def evaluate_logits(
    run: RunFolder,
    logits: np.ndarray,
    labels: Sequence[int],
    *,
    names: Sequence[str],
    places: Sequence[int],
    source: str,
    counts: Counts,
    texts: Sequence[str] | None = None,
    output: Path | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate logits that are already there, at the temperature saved with the run (1 without one).

    Writes ``evaluation.json``, ``predictions.csv``, ``figures/{confusion_matrix,reliability,risk_coverage}.{png,svg}``
    and, but for a baseline, ``report.html``.

    Args:
        run: The run that the logits come from.
        logits: Scores ``[rows, labels]``.
        labels: True classes ``[rows]``, -1 for a row without one.
        names: The classes' names, in order.
        places: Each row's line in its file.
        source: The table's path or id, for the record.
        counts: The model's parameters.
        texts: Repaired texts, shown in the report's table of articles; without them it has none.
        output: Folder for the results; the run folder when not given.
        extra: Further entries of ``evaluation.json``.

    Returns:
        The content of ``evaluation.json``: what :func:`newslora.evaluation.metrics.measure` returns, and ``source``,
        ``temperature``, ``ece_before_temperature``, ``top_confusions``, ``trainable_parameters``, ``total_parameters``.

    Raises:
        NewsloraError: No row has a label, or the results cannot be written.
    """
    temperature = load_temperature(run.learned)
    probs, truth = probabilities(logits, temperature), np.asarray(labels)
    results = {
        "source": source,
        **measure(probs, truth, names),
        "temperature": temperature,
        "ece_before_temperature": calibration_error(probabilities(logits)[truth >= 0], truth[truth >= 0]),
        "top_confusions": top_confusions(probs.argmax(axis=1), truth, names, places),
        "trainable_parameters": counts.trainable,
        "total_parameters": counts.total,
        **(extra or {}),
    }
    folder = run.path if output is None else output
    write_predictions(folder / "predictions.csv", probs, truth, names, places)
    _draw(results, folder / "figures")
    write_text(folder / "evaluation.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    if not run.is_baseline:  # whose card says it all
        rows = telling_rows(probs, truth, names, places, texts) if texts is not None else ()
        write_report(run, rows, output)
    return results


def write_predictions(
    path: Path, probs: np.ndarray, labels: np.ndarray, names: Sequence[str], places: Sequence[int]
) -> None:
    """Write a line for each row: ``place``, ``label``, ``predicted``, and ``p_NAME`` for each class.

    Probabilities have as many digits as a double needs, so figures recomputed from the file are the same.

    Args:
        path: The CSV file.
        probs: Class probabilities ``[rows, labels]``.
        labels: True classes ``[rows]``, -1 for none (an empty cell).
        names: The classes' names, in order.
        places: Each row's line in its file.
    """
    with writing(path) as staged, staged.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["place", "label", "predicted", *(f"p_{name}" for name in names)])
        for place, label, row in zip(places, labels.tolist(), probs, strict=True):
            writer.writerow([place, names[label] if label >= 0 else "", names[int(row.argmax())], *row.tolist()])


def describe(run: RunFolder) -> None:
    """Write the card: a run's, or a baseline's."""
    if run.is_baseline:
        write_baseline_card(run)
    else:
        write_card(run)


def _evaluate_sets(run: RunFolder, scored: Scored, source: str, output: Path | None, shift: bool) -> dict[str, Any]:
    if shift:
        raise NewsloraError("--shift: is measured on runs with one label an article only; leave it out")
    results = evaluate_sets(run, scored.logits, scored.labels, scored.table.places, source, scored.counts, output)
    if output is None:
        write_card(run)
    return results


def _shift(scored: Scored, data: DataConfig, progress: Callable[[int], None] | None) -> dict[str, Any]:
    if scored.model is None:
        raise NewsloraError("--shift: is measured on fine-tuned runs only, not on baselines; leave it out")
    rows = Rows(scored.table, scored.texts, scored.labels, scored.logits)
    return measure_shift(scored.model, scored.cleaner, rows, read_titles(scored.table, data), progress)


def _draw(results: dict[str, Any], folder: Path) -> None:
    about = f"{Path(results['source']).name}, {results['n']:,} articles, accuracy {results['accuracy']:.2%}"
    draw_confusion(results["confusion_matrix"], results["labels"], folder, f"Confusion matrix\n{about}")
    draw_reliability(results["reliability"], results["ece"], folder, f"Reliability\n{about}")
    draw_risk_coverage(results["risk_coverage"], folder, f"Error rate when abstaining\n{about}")
