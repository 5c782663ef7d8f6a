"""What becomes of a table's rows: which columns hold the text, and the columns that their classes are written to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from newslora.data.columns import find_label, find_text
from newslora.data.frame import Frame, shown
from newslora.data.label_sets import written_set
from newslora.data.sinks import infer_schema
from newslora.data.stream import Row, RowStream
from newslora.errors import NewsloraError
from newslora.model.thresholds import Thresholds


class Classifier(Protocol):
    """What answers rows; :class:`newslora.inference.classifier.NewsClassifier` is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names."""

    @property
    def fingerprint(self) -> str:
        """What tells this classifier's answers from another's."""

    @property
    def thresholds(self) -> Thresholds | None:
        """From where on articles carry a label, None where they carry one each."""

    def repair(self, text: object) -> str:
        """Return the text as the model reads it, or raise NewsloraError."""

    def predict_repaired(self, texts: Sequence[str]) -> np.ndarray:
        """Return probabilities ``[texts, labels]``."""


@dataclass(frozen=True)
class TablePlan:
    """How the rows of one table are answered; it may travel to other processes.

    Attributes:
        source: The table's name, for messages.
        columns: Its columns.
        added: Columns for the answers, one for each of :func:`answer_names`.
        text: Columns that hold the text, joined in this order.
        schema: Types of all columns, where the table declares its own.
    """

    source: str
    columns: tuple[str, ...]
    added: tuple[str, ...]
    text: tuple[str, ...]
    schema: pa.Schema | None

    @property
    def all_columns(self) -> list[str]:
        """Names of the columns of the answered table, in order."""
        return [*self.columns, *self.added]

    def answer(
        self, classifier: Classifier, rows: Sequence[Row], skip: Callable[[str], None] | None
    ) -> list[dict[str, Any]]:
        """Classify a block of rows.

        Args:
            classifier: The classifier.
            rows: The rows.
            skip: Told why a row is left out, with ``file:line``; None lets it end the work.

        Returns:
            The cells of each row that could be read, with those added.

        Raises:
            NewsloraError: ``file:line`` of a row that cannot be read, where ``skip`` is None.
        """
        kept, texts = [], []
        for row in rows:
            try:
                texts.append(self._text(classifier, row))
                kept.append(row)
            except NewsloraError as error:
                if skip is None:
                    raise
                skip(str(error))
        probabilities = classifier.predict_repaired(texts)
        return [row.cells | self._answer(classifier, scores) for row, scores in zip(kept, probabilities, strict=True)]

    def _text(self, classifier: Classifier, row: Row) -> str:
        where = f"{self.source}:{row.place}"
        if row.fault is not None:
            raise NewsloraError(row.fault)
        if taken := row.cells.keys() & set(self.added):
            raise NewsloraError(f"{where}: has column {shown(min(taken))}, which the first rows have not; rename it")
        try:
            return classifier.repair(self._joined(row))
        except NewsloraError as error:
            raise NewsloraError(f"{where}: {error}") from error

    def _joined(self, row: Row) -> str:
        cells = [row.cells.get(name) for name in self.text]
        for name, cell in zip(self.text, cells, strict=True):
            if not isinstance(cell, str | int | float | None):
                raise NewsloraError(f"column {shown(name)} holds {shown(cell)}; give text")
        return " ".join(str(cell) for cell in cells if cell not in (None, ""))

    def _answer(self, classifier: Classifier, scores: np.ndarray) -> dict[str, Any]:
        names, thresholds = classifier.names, classifier.thresholds
        if thresholds is not None:
            cell = written_set(thresholds.carried(scores), names, thresholds.separator)
            return dict(zip(self.added, (cell, *scores.tolist()), strict=True))
        best = int(scores.argmax())
        return dict(zip(self.added, (names[best], float(scores[best]), *scores.tolist()), strict=True))


def answer_names(classifier: Classifier) -> tuple[str, ...]:
    """Return what a classifier says of an article, the label or labels first, then numbers."""
    first = ("label", "score") if classifier.thresholds is None else ("labels",)
    return (*first, *(f"p_{name}" for name in classifier.names))


def plan_table(
    stream: RowStream,
    first: Sequence[Row],
    names: Sequence[str],
    text: Sequence[str] | None = None,
    *,
    typed: bool = False,
) -> TablePlan:
    """Decide how a table's rows are answered.

    Args:
        stream: The open table.
        first: Its first rows.
        names: Of the answers, see :func:`answer_names`.
        text: Columns that hold the text; found by name and content when not given.
        typed: Whether types are found from the first rows where the table declares none.

    Raises:
        NewsloraError: No text column.
    """
    columns = stream.columns or list(dict.fromkeys(name for row in first for name in row.cells))
    added = _free_names(columns, names)
    declared = stream.schema or (infer_schema([row.cells for row in first], columns) if typed else None)
    schema = None if declared is None else _schema(declared, added)
    found = _find_text(stream.source, columns, first, text)
    return TablePlan(stream.source, tuple(columns), tuple(added), found, schema)


def _schema(declared: pa.Schema, added: Sequence[str]) -> pa.Schema:
    kinds = [pa.string()] + [pa.float64()] * (len(added) - 1)
    # Metadata describes the old set of columns and would mislead pandas and datasets.
    return pa.schema([*declared, *map(pa.field, added, kinds)])


def _find_text(
    source: str, columns: Sequence[str], first: Sequence[Row], given: Sequence[str] | None
) -> tuple[str, ...]:
    good = [row for row in first if row.fault is None]
    if not good:
        return tuple(given or ())
    cells = {name: [row.cells.get(name) for row in good] for name in columns}
    frame = Frame(source, cells, [row.place for row in good])
    return find_text(frame, given, None if given else _label_column(frame), "--text")


def _label_column(frame: Frame) -> str | None:
    # A table to predict need not have labels; doubt about them is no reason to refuse it.
    try:
        return find_label(frame, None)
    except NewsloraError:
        return None


def _free_names(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    taken, added = set(columns), []
    for name in names:
        while name in taken:
            name = f"predicted_{name}"  # noqa: PLW2901 - prefixed until it is free
        taken.add(name)
        added.append(name)
    return added
