"""A labelled table through a run or a baseline: each row's text as the model reads it, its label and its scores."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from newslora.config import DataConfig, RunConfig
from newslora.data.cleaning import Cleaner
from newslora.data.encoding import encode_and_count
from newslora.data.label_sets import encode_sets
from newslora.data.labels import encode_labels
from newslora.data.sources import Table, read_table
from newslora.errors import NewsloraError
from newslora.evaluation.baseline_state import load_baseline, read_baseline
from newslora.evaluation.card import read_record
from newslora.model.backbone import load_tokenizer
from newslora.model.budget import Counts, Planner
from newslora.model.classifier import NewsModel, load_model, predict_logits
from newslora.training.run_folder import RunFolder


@dataclass(frozen=True)
class Scored:
    """A labelled table's rows and what a run makes of them.

    Attributes:
        names: The run's labels, in the order of the scores.
        table: As read; its texts are not repaired.
        cleaner: The run's repair.
        texts: Repaired texts.
        tokens: Tokens of each before truncation, int64 [rows].
        labels: True classes, int64 [rows]; of a run with several labels an article, 1 where a row carries the label,
            float32 [rows, labels].
        logits: Scores [rows, labels].
        counts: The run's parameters.
        model: The trained model; ``None`` for a baseline.
    """

    names: tuple[str, ...]
    table: Table
    cleaner: Cleaner
    texts: list[str]
    tokens: NDArray[np.int64]
    labels: NDArray[Any]
    logits: np.ndarray
    counts: Counts
    model: NewsModel | None


def score_run(
    run: RunFolder, source: str, data: DataConfig | None = None, progress: Callable[[int], None] | None = None
) -> Scored:
    """Read a labelled table as a run's own tables were read, and score its rows.

    Args:
        run: A run or a baseline.
        source: A file or a hub data set's id.
        data: How to read the table (columns, split); as the run's own tables when not given.
        progress: Called with the number of articles done since the last call.

    Raises:
        NewsloraError: The folder holds a run for each of several seeds; the table cannot be read, has no labels, or has
            one that the run does not know.
    """
    config = run.config()
    if config.train.seeds is not None:
        first = run.seed(config.train.seeds[0])
        raise NewsloraError(f"{run.path}: holds a run for each of several seeds; give one of them, such as {first}")
    data = (data or config.data).model_copy(
        update={name: getattr(config.data, name) for name in ("multi_label", "separator", "hierarchy")}
    )
    model = None if run.is_baseline else load_model(run.adapter)
    names = tuple(read_baseline(run.baseline)["labels"]) if model is None else model.names
    report = read_record(run.path / "data_report.json")
    table = read_table(source, data, split=data.test_split, like=_training_table(report))
    base = report.get("label_base")
    labels = encode_sets(table, names, base) if data.multi_label else np.array(encode_labels(table, names, base))
    cleaner = Cleaner.load(run.learned / "cleaner.json")
    texts = [cleaner.repair(text) for text in table.texts]
    tokenizer = model.tokenizer if model else load_tokenizer(config.model.backbone, config.model.revision)
    encoded, tokens = encode_and_count(texts, tokenizer, model.max_length if model else config.data.max_length)
    if model is None:
        baseline = load_baseline(run.baseline)
        logits, counts = baseline.logits(texts, encoded), Counts(baseline.parameters, baseline.parameters)
    else:
        logits, counts = predict_logits(model, encoded, progress), _trained_counts(model, config)
    return Scored(names, table, cleaner, texts, tokens, labels, logits, counts, model)


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
