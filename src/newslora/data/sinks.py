"""Tables written block by block: CSV, TSV, JSON Lines and Parquet, and JSON Lines on standard output."""

import csv
import gzip
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from newslora.data.frame import reason, shown
from newslora.data.stream import STANDARD, kind_of
from newslora.errors import NewsloraError
from newslora.files import writing

Write = Callable[[Sequence[dict[str, Any]]], None]


def check_target(target: Path) -> None:
    """Refuse a name that no table can be written to.

    Raises:
        NewsloraError: An unknown ending, or a folder of that name.
    """
    if kind_of(str(target)) == "parquet" and target.suffix == ".gz":
        raise NewsloraError(f"{target}: Parquet is compressed by itself; leave off .gz")
    if target.is_dir():
        raise NewsloraError(f"{target}: is a folder; give a file's name")


@contextmanager
def open_sink(
    target: str,
    columns: Sequence[str],
    schema: pa.Schema | None = None,
    *,
    header: bool = True,
    named: Path | None = None,
) -> Iterator[Write]:
    """Open a table for writing; it appears under its name when the block ends without an error, or not at all.

    Args:
        target: A file's name, whose ending says its kind (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``; ``.gz`` after
            the text kinds), or ``-`` for JSON lines on standard output.
        columns: Column names, in order. JSON lines may have others too.
        schema: Types of the columns for Parquet; found from the first block when not given.
        header: Whether a CSV or TSV file begins with the columns' names.
        named: The table that the file is a part of, for messages; itself when not given.

    Yields:
        A function that writes a block of rows.

    Raises:
        NewsloraError: An unknown ending, a full disk, or rows that do not fit the table.
    """
    if target == STANDARD:
        yield _json_writer(sys.stdout.buffer)
        return
    kind, path = kind_of(target), Path(target)
    check_target(path)
    table = named or path
    with writing(path) as staged:
        if kind == "parquet":
            with _parquet_writer(staged, table, list(columns), schema) as write:
                yield write
        else:
            with _open_binary(staged, zipped=path.suffix == ".gz") as file:
                delimiter = "\t" if kind == "tsv" else ","
                write = _json_writer(file) if kind == "jsonl" else _delimited_writer(file, table, columns, delimiter)
                if header and kind != "jsonl":
                    csv.writer(_Encoder(file), delimiter=delimiter, lineterminator="\n").writerow(columns)
                yield write


def join(parts: Sequence[Path], target: Path) -> None:
    """Write parts of one kind, made by :func:`open_sink`, as one file: rows in order, one part in memory at a time.

    Args:
        parts: Files, only the first with a header. Gzipped ones become members of one gzip file.
        target: The file to write, under whatever name.
    """
    if parts and parts[0].suffix == ".parquet":
        with pq.ParquetWriter(str(target), schema_of(parts[0])) as writer:
            for part in parts:
                writer.write_table(pq.ParquetFile(str(part)).read())
        return
    with target.open("wb") as joined:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, joined)


def schema_of(path: Path) -> pa.Schema | None:
    """Return a Parquet file's types, None for another kind."""
    return pq.read_schema(str(path)) if path.suffix == ".parquet" else None


@contextmanager
def _open_binary(path: Path, *, zipped: bool) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("wb"))
        # No name and no time in the gzip header: the same rows give the same bytes.
        yield cast(BinaryIO, stack.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0)) if zipped else raw)


def _json_writer(file: BinaryIO) -> Write:
    def write(rows: Sequence[dict[str, Any]]) -> None:
        # Dates, decimals and bytes of a Parquet file have no JSON of their own and become text.
        lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        file.write("".join(lines).encode("utf-8", "surrogatepass"))
        file.flush()

    return write


def _delimited_writer(file: BinaryIO, path: Path, columns: Sequence[str], delimiter: str) -> Write:
    writer = csv.writer(_Encoder(file), delimiter=delimiter, lineterminator="\n")

    def write(rows: Sequence[dict[str, Any]]) -> None:
        _check_columns(rows, columns, path)
        writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)

    return write


class _Encoder:
    """The one method that ``csv.writer`` asks for, onto a binary file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode())


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else value


def _check_columns(rows: Sequence[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    known = set(columns)
    for row in rows:
        if extra := row.keys() - known:
            raise NewsloraError(
                f"{path}: a row has column {shown(sorted(extra)[0])}, unlike the first rows; write .jsonl instead"
            )


@contextmanager
def _parquet_writer(staged: Path, path: Path, columns: list[str], schema: pa.Schema | None) -> Iterator[Write]:
    with ExitStack() as stack:
        writers: list[pq.ParquetWriter] = []

        def write(rows: Sequence[dict[str, Any]]) -> None:
            _check_columns(rows, columns, path)
            with _fitting(path):
                if not writers:
                    kinds = schema or infer_schema(rows, columns)
                    writers.append(stack.enter_context(pq.ParquetWriter(str(staged), kinds)))
                writers[0].write_table(pa.Table.from_pylist(list(rows), schema=writers[0].schema))

        yield write
        if not writers:
            write([])


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OverflowError) as error:
        raise NewsloraError(
            f"{path}: a row does not fit the types of the first rows ({reason(error)}); write .jsonl instead"
        ) from error


def infer_schema(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pa.Schema:
    """Return the types that columns have in these rows; text where all is null."""
    kinds = {name: pa.array([row.get(name) for row in rows]).type for name in columns}
    return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in kinds.items()])
