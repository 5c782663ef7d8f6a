"""Whether an exported model answers as the one it was made from: both on the same real rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from newslora.config import DataConfig
from newslora.data.cleaning import Cleaner
from newslora.data.label_sets import encode_sets
from newslora.data.labels import encode_labels
from newslora.data.sources import SAMPLE, Table, read_table
from newslora.errors import NewsloraError
from newslora.files import read_json
from newslora.model.thresholds import Thresholds
from newslora.training.run_folder import RunFolder

TIE: Final = 1e-4
_MOST_ROWS: Final = 2000
_MOST_BYTES: Final = 1 << 28
_REPORT: Final = "data_report.json"


@dataclass(frozen=True)
class Tolerance:
    """How far an export may be from its model.

    Attributes:
        logits: Greatest difference of a logit, as a share of the greatest logit.
        labels: Share of rows that may get another label.
        accuracy: Accuracy that may be lost.
    """

    logits: float
    labels: float
    accuracy: float


@dataclass(frozen=True)
class Rows:
    """Rows to compare on.

    Attributes:
        source: Where they are from.
        texts: Repaired texts.
        labels: Classes int64 [rows], or, where articles carry several labels, which ones, float32 [rows, labels]; None
            where they are not known.
    """

    source: str
    texts: list[str]
    labels: npt.NDArray[Any] | None


def read_rows(
    adapter: Path,
    names: tuple[str, ...],
    cleaner: Cleaner,
    source: str | None,
    thresholds: Thresholds | None = None,
) -> Rows:
    """Return the rows of a file, or else some of the run's own test table, or else the packaged sample.

    Args:
        adapter: The model's folder; the run's settings are beside a run's.
        names: The classes' names.
        cleaner: The run's cleaner.
        source: A table, with or without labels; all its rows with a text are taken.
        thresholds: The model's, where articles carry several labels.

    Raises:
        NewsloraError: The given table cannot be read, has a label that the model does not know, or no text.
    """
    run = RunFolder(adapter.parent)
    data = run.config().data if run.config_file.is_file() else DataConfig()
    if thresholds is not None:
        own = {"separator": thresholds.separator, "hierarchy": thresholds.hierarchy}
        data = data.model_copy(update={"multi_label": True, **own})
    test = data.test if data.test and Path(data.test).is_file() else SAMPLE
    report = _report(run)
    table = read_table(source or test, data, split=data.test_split, need_label=False, like=_training_table(report))
    texts = [cleaner.repair(text) for text in table.texts]
    kept = np.array([row for row, text in enumerate(texts) if text], dtype=np.int64)
    if not len(kept):
        raise NewsloraError(f"{table.source}: holds no text to check the export on; give --data FILE")
    if source is None and len(kept) > _MOST_ROWS:
        kept = kept[np.linspace(0, len(kept) - 1, _MOST_ROWS).astype(np.int64)]
    labels = _labels(table, names, report.get("label_base"), given=source is not None)
    return Rows(table.source, [texts[row] for row in kept], None if labels is None else labels[kept])


def compare(
    expected: npt.NDArray[Any], found: npt.NDArray[Any], rows: Rows, cuts: npt.NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Return how two models' logits [rows, labels] differ.

    Args:
        expected: The model's.
        found: The export's.
        rows: What they are of.
        cuts: Where articles carry several labels, the logit that each begins at, [labels]; two sets of labels agree
            where every label does.

    Returns:
        ``rows``, ``source``, ``greatest_logit`` and ``greatest_logit_difference``, ``labels_agree`` (share of
        rows; a tie to within rounding agrees either way), and ``accuracy`` of both where the labels are known.
    """
    if cuts is None:
        before, after = expected.argmax(axis=1), found.argmax(axis=1)
        agree = _agree(expected, after)
    else:
        before, after = expected >= cuts, found >= cuts
        near = np.abs(expected - cuts) <= TIE * np.abs(expected).max()
        agree = ((before == after) | near).all(axis=1)
    figures: dict[str, Any] = {
        "source": rows.source,
        "rows": len(rows.texts),
        "greatest_logit": float(np.abs(expected).max()),
        "greatest_logit_difference": float(np.abs(found - expected).max()),
        "labels_agree": float(agree.mean()),
    }
    if rows.labels is not None:
        right = [_right(labels, rows.labels) for labels in (before, after)]
        of = {"model": right[0], "export": np.where(agree, *right)}
        figures["accuracy"] = {name: float(rows_right.mean()) for name, rows_right in of.items()}
    return figures


def _agree(expected: npt.NDArray[Any], found: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    # Two logits that are equal to within rounding are a tie, which either label settles.
    best, chosen = expected.max(axis=1), np.take_along_axis(expected, found[:, None], axis=1)[:, 0]
    agree: npt.NDArray[np.bool_] = best - chosen <= TIE * np.abs(expected).max()
    return agree


def _right(answers: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = (answers == labels).reshape(len(labels), -1).all(axis=1)
    return same


def faults(figures: dict[str, Any], tolerance: Tolerance) -> list[str]:
    """Return what of a comparison is out of tolerance, a phrase each; on few rows one of them may always differ."""
    slack = 1 / figures["rows"]
    found = []
    most = tolerance.logits * figures["greatest_logit"]
    if not figures["greatest_logit_difference"] <= most:  # a NaN is no small difference
        found.append(f"logits differ by {figures['greatest_logit_difference']:.2g}, at most {most:.2g} is allowed")
    least = 1 - (max(tolerance.labels, slack) if tolerance.labels else 0.0)
    if figures["labels_agree"] < least:
        found.append(f"labels agree on {figures['labels_agree']:.2%}, at least {least:.2%} is asked")
    lost = _lost(figures)
    most = max(tolerance.accuracy, slack) if tolerance.accuracy else 0.0
    if lost > most + 1e-12:
        found.append(f"accuracy falls by {lost:.2%}, at most {most:.2%} is allowed")
    return found


def _lost(figures: dict[str, Any]) -> float:
    accuracy = figures.get("accuracy")
    return 0.0 if accuracy is None else float(accuracy["model"] - accuracy["export"])


def _report(run: RunFolder) -> dict[str, Any]:
    file = run.path / _REPORT
    return read_json(file, _MOST_BYTES, "delete it or repeat the run") if file.exists() else {}


def _training_table(report: dict[str, Any]) -> Table | None:
    """Return the columns of the training table, which are looked for first, as a table without rows."""
    if not report:
        return None
    known = report["tables"]["train"]
    return Table(known["source"], [], None, [], None, tuple(known["columns"]["text"]), known["columns"]["label"])


def _labels(table: Table, names: Sequence[str], base: int | None, *, given: bool) -> npt.NDArray[Any] | None:
    if table.labels is None and table.label_sets is None:
        return None
    try:
        if table.label_sets is not None:
            return encode_sets(table, tuple(names), base)
        return np.array(encode_labels(table, tuple(names), base))
    except NewsloraError:
        if given:
            raise
        return None  # the packaged sample's classes need not be this model's
