"""Classifying whole files, larger than memory: blocks of rows in, the same rows with their classes out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

from newslora.data.parts import Parts, open_parts
from newslora.data.sinks import Write, open_sink
from newslora.data.stream import STANDARD, Row, RowStream, open_rows
from newslora.inference.answers import Classifier, TablePlan, answer_names, plan_table

BLOCK: Final = 4096
"""Rows answered and written at a time, by Ray's workers too: a block's rows make its batches, and other batches round
otherwise."""


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
        job = _Job(
            classifier,
            plan_table(stream, first, answer_names(classifier), text),
            None if on_error == "stop" else skipped or _ignore,
        )
        blocks = chain([first], blocks)  # one block at least: a table without rows still has columns
        tell = _teller(stream, progress, share)
        if output == STANDARD:
            with open_sink(output, job.plan.all_columns) as write:
                return job.run(blocks, write, tell)
        settings = {"text": list(job.plan.text), "on_error": on_error, "block": block}
        with open_parts(Path(output), identity(classifier, source) | settings, note or _ignore) as parts:
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


def identity(classifier: Classifier, source: str) -> dict[str, Any]:
    """Return what tells this input and classifier from others, as JSON can hold it."""
    if source == STANDARD:
        return {"source": uuid4().hex}  # no one can tell whether standard input is the same again
    path, about = Path(source).resolve(), Path(source).stat()
    size = {"bytes": about.st_size, "modified_ns": about.st_mtime_ns}
    return {"source": str(path), **size, "classifier": classifier.fingerprint, "version": version("newslora")}


@dataclass(frozen=True)
class _Job:
    classifier: Classifier
    plan: TablePlan
    skip: Callable[[str], None] | None

    def run(self, blocks: Iterable[list[Row]], write: Write, tell: Callable[[int], None]) -> BulkResult:
        written = left_out = 0
        for rows in blocks:
            answered = self.plan.answer(self.classifier, rows, self.skip)
            write(answered)
            written, left_out = written + len(answered), left_out + len(rows) - len(answered)
            tell(len(rows))
        return BulkResult(written, left_out)

    def run_in_parts(self, blocks: Iterable[list[Row]], parts: Parts, tell: Callable[[int], None]) -> BulkResult:
        before = len(parts.done)
        for number, rows in enumerate(blocks):
            if number >= before:
                answered = self.plan.answer(self.classifier, rows, self.skip)
                parts.write(answered, len(rows) - len(answered), self.plan.all_columns, self.plan.schema)
            tell(len(rows))
        return BulkResult(sum(part.written for part in parts.done), sum(part.skipped for part in parts.done))
