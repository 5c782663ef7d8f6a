"""Tables read row by row in bounded memory; a row that cannot be read is handed on as such, and others follow."""

import csv
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from newslora.data.delimited import (
    check_width,
    delimiter_of,
    explain,
    field_limit,
    header_names,
    is_official,
    official_names,
)
from newslora.data.frame import reason
from newslora.data.jsonl import parse_object
from newslora.data.lines import Expansion, Lines, NoTable, open_bytes, read_bytes, reading
from newslora.errors import NewsloraError

STANDARD: Final = "-"
KINDS: Final = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
_BATCH: Final = 1024  # rows of a Parquet file decoded at a time


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        place: 1-based line in its file; row number for Parquet.
        cells: Values by column name.
        fault: Why the row cannot be read, with ``file:line``; its cells are then empty.
    """

    place: int
    cells: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True)
class RowStream:
    """An open table.

    Attributes:
        source: Its name, for messages.
        columns: Column names where the file declares them; empty for JSON lines and standard input.
        schema: A Parquet file's types.
        rows: The rows, in order.
        share: Tells how much of the file is read, 0 to 1, where that can be known.
    """

    source: str
    columns: list[str]
    schema: pa.Schema | None
    rows: Iterator[Row]
    share: Callable[[], float] | None = None


def kind_of(name: str) -> str:
    """Return ``csv``, ``tsv``, ``jsonl`` or ``parquet`` by a file's name, ``.gz`` apart.

    Raises:
        NewsloraError: The name ends otherwise.
    """
    path = Path(name.removesuffix(".gz"))
    if path.suffix.lower() not in KINDS:
        raise NewsloraError(f"{name}: unknown kind of table; let its name end in one of {', '.join(KINDS)}, also .gz")
    return KINDS[path.suffix.lower()]


@contextmanager
def open_rows(source: str) -> Iterator[RowStream]:
    """Open a table for reading row by row.

    Args:
        source: A CSV, TSV, JSON Lines or Parquet file, also gzipped; or ``-`` for lines on standard input, JSON objects
            if the first line begins with ``{`` and plain texts (column ``text``) otherwise.

    Yields:
        The open table.

    Raises:
        NewsloraError: The file cannot be opened or told, breaks off (a broken gzip or Parquet file), or is no table
            (:class:`newslora.data.lines.NoTable`).
    """
    if source == STANDARD:
        yield _read_standard(sys.stdin.buffer)
        return
    path, kind = Path(source), kind_of(source)
    if not path.is_file():
        raise NewsloraError(f"{source}: {'is a folder; give a file' if path.is_dir() else 'no such file'}")
    if kind == "parquet":
        with reading(path), _open_parquet(path) as file:
            yield _read_parquet(file, path)
        return
    with reading(path), open_bytes(path) as stream:
        lines = Lines(stream, source, Expansion(path))
        table = RowStream(source, [], None, _json_rows(lines)) if kind == "jsonl" else _read_delimited(lines, path)
        yield replace(table, share=_share(stream, path))


def _read_standard(stream: BinaryIO) -> RowStream:
    lines, objects = Lines(stream, "stdin"), list[bool]()

    def read() -> dict[str, Any] | None:
        line = next(lines)
        if line.isspace():
            return None
        if not objects:
            objects.append(line.lstrip().startswith("{"))
        return parse_object(line, f"stdin:{lines.number}") if objects[0] else {"text": line.strip()}

    return RowStream("stdin", [], None, _rows(lines, read))


def _json_rows(lines: Lines) -> Iterator[Row]:
    def read() -> dict[str, Any] | None:
        line = next(lines)
        return None if line.isspace() else parse_object(line, f"{lines.source}:{lines.number}")

    return _rows(lines, read)


def _rows(lines: Lines, read: Callable[[], dict[str, Any] | None]) -> Iterator[Row]:
    """Yield what ``read`` returns until it raises StopIteration; None is no row, and NewsloraError a faulty one."""
    while True:
        place = lines.number + 1
        try:
            cells = read()
        except StopIteration:
            return
        except NoTable:
            raise
        except NewsloraError as error:
            yield Row(place, fault=str(error))
            continue
        if cells is not None:
            yield Row(place, cells)


def _read_delimited(lines: Lines, path: Path) -> RowStream:
    reader = csv.reader(lines, delimiter=delimiter_of(path), strict=True)

    def advance() -> list[str]:
        start = lines.number + 1
        try:
            with field_limit():
                return next(reader)
        except csv.Error as error:
            raise NewsloraError(f"{path}:{start}: {explain(error)}") from error

    def read() -> dict[str, Any] | None:
        start = lines.number + 1
        cells = advance()
        return _by_name(names, cells, f"{path}:{start}") if cells else None

    place, first = _first_row(lines, advance, path)
    if not is_official(first):
        names = header_names(first, f"{path}:{place}")
        return RowStream(str(path), names, None, _rows(lines, read))
    names = official_names(len(first))
    row = Row(place, _by_name(names, first, f"{path}:{place}"))
    return RowStream(str(path), names, None, chain([row], _rows(lines, read)))


def _first_row(lines: Lines, advance: Callable[[], list[str]], path: Path) -> tuple[int, list[str]]:
    while True:
        place = lines.number + 1
        try:
            cells = advance()
        except StopIteration:
            raise NewsloraError(f"{path}: is empty; give a table with one article a row") from None
        if cells:
            return place, cells


def _by_name(names: list[str], cells: list[str], where: str) -> dict[str, Any]:
    check_width(cells, names, where)
    return dict(zip(names, cells, strict=True))


@contextmanager
def _reading_parquet(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, ValueError) as error:  # ValueError: names or cells that are no UTF-8
        raise NewsloraError(f"{path}: broken Parquet ({reason(error)}); write or copy it again") from error


def _open_parquet(path: Path) -> pq.ParquetFile:
    source = pa.BufferReader(read_bytes(path)) if path.suffix == ".gz" else str(path)
    with _reading_parquet(path):
        return pq.ParquetFile(source)


def _share(stream: BinaryIO, path: Path) -> Callable[[], float]:
    size = max(1, path.stat().st_size)
    # The descriptor's own position: of a gzipped file too, what is read of the packed bytes.
    return lambda: min(1.0, os.lseek(stream.fileno(), 0, os.SEEK_CUR) / size)


def _read_parquet(file: pq.ParquetFile, path: Path) -> RowStream:
    place, total = 0, max(1, file.metadata.num_rows)

    def rows() -> Iterator[Row]:
        nonlocal place
        with _reading_parquet(path):
            for batch in file.iter_batches(batch_size=_BATCH, use_threads=False):
                for cells in batch.to_pylist():
                    place += 1
                    yield Row(place, cells)

    with _reading_parquet(path):
        return RowStream(str(path), file.schema_arrow.names, file.schema_arrow, rows(), lambda: place / total)
