"""From logits or a labelled file to ``evaluation.json``, ``predictions.csv`` and figures."""

import csv
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from newslora.config import DataConfig, RunConfig
from newslora.data.cleaning import Cleaner
from newslora.data.encoding import encode
from newslora.data.labels import encode_labels
from newslora.data.sources import Table, read_table
from newslora.evaluation.calibration import calibration_error
from newslora.evaluation.card import read_record, write_card
from newslora.evaluation.figures import draw_confusion, draw_reliability
from newslora.evaluation.metrics import measure, top_confusions
from newslora.files import write_text, writing
from newslora.model.budget import Counts, Planner
from newslora.model.classifier import NewsModel, load_model, predict_logits
from newslora.model.temperature import load_temperature, probabilities
from newslora.training.run_folder import RunFolder


def evaluate_run(
    run: RunFolder,
    source: str,
    output: Path | None = None,
    *,
    data: DataConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a trained run on a labelled table, with the run's own label names and cleaner.

    Args:
        run: The run.
        source: A file or a hub data set's id.
        output: Folder for the results; the run folder itself when not given, whose evaluation and model card are
            then replaced.
        data: How to read the table (columns, split); as the run's own tables when not given.
        progress: Called with the number of articles done since the last call.

    Returns:
        The content of ``evaluation.json``; see :func:`evaluate_logits`.

    Raises:
        NewsloraError: The table cannot be read, has no labels, or has one that the run does not know.
    """
    config = run.config()
    model = load_model(run.adapter)
    report = read_record(run.path / "data_report.json")
    table = read_table(
        source, data or config.data, split=(data or config.data).test_split, like=_training_table(report)
    )
    labels = encode_labels(table, model.names, report.get("label_base"))
    cleaner = Cleaner.load(run.adapter / "cleaner.json")
    texts = [cleaner.repair(text) for text in table.texts]
    encoded = encode(texts, model.tokenizer, model.max_length)
    logits = predict_logits(model, encoded, progress)
    results = evaluate_logits(
        run,
        logits,
        labels,
        names=model.names,
        places=table.places,
        source=source,
        counts=_trained_counts(model, config),
        output=output,
    )
    if output is None:
        write_card(run)  # it tells of the evaluation that was just replaced
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
    output: Path | None = None,
) -> dict[str, Any]:
    """Evaluate logits that are already there, at the temperature saved with the run (1 without one).

    Writes ``evaluation.json``, ``predictions.csv`` and ``figures/{confusion_matrix,reliability}.{png,svg}``.

    Args:
        run: The run that the logits come from.
        logits: Scores ``[rows, labels]``.
        labels: True classes ``[rows]``, -1 for a row without one.
        names: The classes' names, in order.
        places: Each row's line in its file.
        source: The table's path or id, for the record.
        counts: The model's parameters.
        output: Folder for the results; the run folder when not given.

    Returns:
        The content of ``evaluation.json``: what :func:`newslora.evaluation.metrics.measure` returns, and ``source``,
        ``temperature``, ``ece_before_temperature``, ``top_confusions``, ``trainable_parameters``, ``total_parameters``.

    Raises:
        NewsloraError: No row has a label, or the results cannot be written.
    """
    temperature = load_temperature(run.adapter)
    probs, truth = probabilities(logits, temperature), np.asarray(labels)
    results = {
        "source": source,
        **measure(probs, truth, names),
        "temperature": temperature,
        "ece_before_temperature": calibration_error(probabilities(logits)[truth >= 0], truth[truth >= 0]),
        "top_confusions": top_confusions(probs.argmax(axis=1), truth, names, places),
        "trainable_parameters": counts.trainable,
        "total_parameters": counts.total,
    }
    folder = run.path if output is None else output
    write_predictions(folder / "predictions.csv", probs, truth, names, places)
    _draw(results, folder / "figures")
    write_text(folder / "evaluation.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
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


def _training_table(report: dict[str, Any]) -> Table | None:
    """Return the columns of the training table, which are looked for first, as a table without rows."""
    if not report:
        return None
    known = report["tables"]["train"]
    columns = known["columns"]
    return Table(known["source"], [], None, [], None, tuple(columns["text"]), columns["label"])


def _trained_counts(model: NewsModel, config: RunConfig) -> Counts:
    """Count what training changed: in a loaded model nothing is trainable any more."""
    planner = Planner(deepcopy(model.plain.config), len(model.names), config.model.backbone, config.lora.layers)
    plan = planner.plan(config.lora.targets, config.model.head, config.lora.r, config.lora.budget)
    # A saved adapter holds the head's low-rank update folded into its weight: the matrices are counted back in.
    folded = plan.head_parameters - planner.head("linear", plan.r) if config.model.head == "lora" else 0
    return Counts(plan.trainable, model.counts().total + folded)


def _draw(results: dict[str, Any], folder: Path) -> None:
    about = f"{Path(results['source']).name}, {results['n']:,} articles, accuracy {results['accuracy']:.2%}"
    draw_confusion(results["confusion_matrix"], results["labels"], folder, f"Confusion matrix\n{about}")
    draw_reliability(results["reliability"], results["ece"], folder, f"Reliability\n{about}")
