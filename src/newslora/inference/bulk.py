"""Classifying whole files, larger than memory: blocks of rows in, the same rows with their classes out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

import numpy as np
import pyarrow as pa

from newslora.data.columns import find_label, find_text
from newslora.data.frame import Frame, shown
from newslora.data.label_sets import written_set
from newslora.data.parts import Parts, open_parts
from newslora.data.sinks import Write, open_sink
from newslora.data.stream import STANDARD, Row, RowStream, open_rows
from newslora.errors import NewsloraError
from newslora.model.thresholds import Thresholds

BLOCK = 4096


class Classifier(Protocol):
    """What :func:`predict_file` needs; :class:`newslora.inference.classifier.NewsClassifier` is one."""

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
class BulkResult:
    """How a file went.

    Attributes:
        written: Rows written.
        skipped: Rows left out because they could not be read.
    """

    written: int
    skipped: int


def predict_file(
    classifier: Classifier,
    source: str,
    output: str,
    *,
    text: Sequence[str] | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    block: int = BLOCK,
    progress: Callable[[int], None] | None = None,
    share: Callable[[float], None] | None = None,
    skipped: Callable[[str], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> BulkResult:
    """Classify every row of a file.

    The output has the input's rows in their order, with all their columns, and ``label``, ``score`` (the label's
    calibrated probability) and ``p_NAME`` for each class. Where the input has a column of that name already, the new
    one is called ``predicted_label`` and so on. Where articles carry several labels, ``labels`` has those whose
    probability reaches their threshold, with the run's separator between, in place of ``label`` and ``score``.

    One block is in memory at a time. The output file appears when all is done. Work that was killed or interrupted goes
    on after its last whole block when it is started again on the same input with the same classifier and settings, and
    then writes the bytes that it would have written in one go.

    Args:
        classifier: The classifier.
        source: CSV, TSV, JSON Lines or Parquet, also gzipped, by the name's ending; ``-`` for lines on standard input,
            JSON objects or plain texts.
        output: As ``source``, of the same kind or another; ``-`` for JSON lines on standard output.
        text: Columns that hold the text, joined in this order; found by name and content when not given.
        on_error: Whether a row that cannot be read ends the work or is left out.
        block: Rows read, classified and written at a time.
        progress: Called with the number of rows done since the last call.
        share: Called with the share of the input that is read, where that can be known, before each ``progress``.
        skipped: Called with the reason, which begins with ``file:line``, for each row left out.
        note: Called with a line on what was found of an earlier start, if anything.

    Returns:
        The numbers of rows written and left out.

    Raises:
        NewsloraError: ``file:line`` of a row that cannot be read (``on_error="stop"``); files that cannot be read or
            written; no text column.
    """
    with open_rows(source) as stream:
        blocks = iter(lambda: list(islice(stream.rows, block)), [])
        first = next(blocks, [])
        job = _Job(classifier, stream, first, text, None if on_error == "stop" else skipped or _ignore)
        blocks = chain([first], blocks)  # one block at least: a table without rows still has columns
        tell = _teller(stream, progress, share)
        if output == STANDARD:
            with open_sink(output, [*job.columns, *job.added]) as write:
                return job.run(blocks, write, tell)
        settings = {"text": list(job.text), "on_error": on_error, "block": block}
        with open_parts(Path(output), _identity(classifier, source) | settings, note or _ignore) as parts:
            return job.run_in_parts(blocks, parts, tell)


def _ignore(line: str) -> None:
    """Say nothing."""


def _teller(
    stream: RowStream, progress: Callable[[int], None] | None, share: Callable[[float], None] | None
) -> Callable[[int], None]:
    def tell(rows: int) -> None:
        if share is not None and stream.share is not None:
            share(stream.share())
        if progress is not None:
            progress(rows)

    return tell


def _identity(classifier: Classifier, source: str) -> dict[str, Any]:
    """Return what tells this input and classifier from others."""
    if source == STANDARD:
        return {"source": uuid4().hex}  # no one can tell whether standard input is the same again
    path, about = Path(source).resolve(), Path(source).stat()
    size = {"bytes": about.st_size, "modified_ns": about.st_mtime_ns}
    return {"source": str(path), **size, "classifier": classifier.fingerprint, "version": version("newslora")}


class _Job:
    def __init__(
        self,
        classifier: Classifier,
        stream: RowStream,
        first: list[Row],
        text: Sequence[str] | None,
        skip: Callable[[str], None] | None,
    ) -> None:
        self.classifier, self.stream, self.skip = classifier, stream, skip
        self.columns = stream.columns or list(dict.fromkeys(name for row in first for name in row.cells))
        self.added = _free_names(self.columns, classifier)
        self.text = self._find_text(first, text)

    def run(self, blocks: Iterable[list[Row]], write: Write, tell: Callable[[int], None]) -> BulkResult:
        written = left_out = 0
        for rows in blocks:
            answered = self._classify(rows)
            write(answered)
            written, left_out = written + len(answered), left_out + len(rows) - len(answered)
            tell(len(rows))
        return BulkResult(written, left_out)

    def run_in_parts(self, blocks: Iterable[list[Row]], parts: Parts, tell: Callable[[int], None]) -> BulkResult:
        columns, before = [*self.columns, *self.added], len(parts.done)
        for number, rows in enumerate(blocks):
            if number >= before:
                answered = self._classify(rows)
                parts.write(answered, len(rows) - len(answered), columns, self.schema())
            tell(len(rows))
        return BulkResult(sum(part.written for part in parts.done), sum(part.skipped for part in parts.done))

    def schema(self) -> pa.Schema | None:
        if self.stream.schema is None:
            return None
        kinds = [pa.string()] + [pa.float64()] * (len(self.added) - 1)
        # Metadata describes the old set of columns and would mislead pandas and datasets.
        return pa.schema([*self.stream.schema, *map(pa.field, self.added, kinds)])

    def _find_text(self, first: list[Row], given: Sequence[str] | None) -> tuple[str, ...]:
        good = [row for row in first if row.fault is None]
        if not good:
            return tuple(given or ())
        cells = {name: [row.cells.get(name) for row in good] for name in self.columns}
        frame = Frame(self.stream.source, cells, [row.place for row in good])
        return find_text(frame, given, None if given else _label_column(frame), "--text")

    def _classify(self, rows: list[Row]) -> list[dict[str, Any]]:
        kept, texts = [], []
        for row in rows:
            try:
                texts.append(self._text(row))
                kept.append(row)
            except NewsloraError as error:
                if self.skip is None:
                    raise
                self.skip(str(error))
        probabilities = self.classifier.predict_repaired(texts)
        return [row.cells | self._answer(scores) for row, scores in zip(kept, probabilities, strict=True)]

    def _text(self, row: Row) -> str:
        where = f"{self.stream.source}:{row.place}"
        if row.fault is not None:
            raise NewsloraError(row.fault)
        if taken := row.cells.keys() & set(self.added):
            raise NewsloraError(f"{where}: has column {shown(min(taken))}, which the first rows have not; rename it")
        try:
            return self.classifier.repair(self._joined(row))
        except NewsloraError as error:
            raise NewsloraError(f"{where}: {error}") from error

    def _joined(self, row: Row) -> str:
        cells = [row.cells.get(name) for name in self.text]
        for name, cell in zip(self.text, cells, strict=True):
            if not isinstance(cell, str | int | float | None):
                raise NewsloraError(f"column {shown(name)} holds {shown(cell)}; give text")
        return " ".join(str(cell) for cell in cells if cell not in (None, ""))

    def _answer(self, scores: np.ndarray) -> dict[str, Any]:
        thresholds = self.classifier.thresholds
        if thresholds is not None:
            cell = written_set(thresholds.carried(scores), self.classifier.names, thresholds.separator)
            return dict(zip(self.added, (cell, *scores.tolist()), strict=True))
        best = int(scores.argmax())
        return dict(zip(self.added, (self.classifier.names[best], float(scores[best]), *scores.tolist()), strict=True))


def _label_column(frame: Frame) -> str | None:
    # A table to predict need not have labels; doubt about them is no reason to refuse it.
    try:
        return find_label(frame, None)
    except NewsloraError:
        return None


def _free_names(columns: Sequence[str], classifier: Classifier) -> list[str]:
    taken, added = set(columns), []
    answers = ("label", "score") if classifier.thresholds is None else ("labels",)
    for name in (*answers, *(f"p_{name}" for name in classifier.names)):
        while name in taken:
            name = f"predicted_{name}"  # noqa: PLW2901 - prefixed until it is free
        taken.add(name)
        added.append(name)
    return added
