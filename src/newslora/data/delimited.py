"""CSV and TSV: with a header, or in AG News' headerless layout (class, title, description)."""

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from newslora.data.columns import KNOWN_NAMES, plain_name
from newslora.data.frame import LONGEST_CELL, MOST_COLUMNS, Frame, name_columns, reason, shown
from newslora.data.lines import read_lines
from newslora.errors import NewsloraError

_DELIMITERS: Final = ",;\t|"
_QUOTED: Final = re.compile(r'"[^"]*"')
_INTEGER: Final = re.compile(r"\s*[+-]?\d{1,9}\s*")
_LONGEST_NAME: Final = 64

Row = tuple[int, list[str]]


def read_delimited(path: Path) -> Frame:
    """Read a CSV or TSV file, strictly.

    The layout is told by the first row: an integer followed by cells of which none reads like a column's name is
    AG News' official layout, whose columns are named class, title, description (or class, text); any other first
    row is a header.

    Raises:
        NewsloraError: ``file:line`` of a row with other columns than the first, of broken quotes, or of what
            :func:`newslora.data.lines.read_lines` refuses; a file without rows.
    """
    rows = list(_rows(path, delimiter_of(path)))
    if not rows:
        raise NewsloraError(f"{path}: is empty; give a table with one article a row")
    place, first = rows[0]
    if is_official(first):
        names = official_names(len(first))
        _check_classes(rows, path)
    else:
        names, rows = header_names(first, f"{path}:{place}"), rows[1:]
    for place, row in rows:
        check_width(row, names, f"{path}:{place}")
    columns: dict[str, list[object]] = {name: [row[i] for _, row in rows] for i, name in enumerate(names)}
    return Frame(str(path), columns, [place for place, _ in rows]).check()


def delimiter_of(path: Path) -> str:
    """Return the character between cells: a tab by the file's name, else by what stands in its first line."""
    if ".tsv" in path.suffixes:
        return "\t"
    bare = _QUOTED.sub("", next(read_lines(path), ""))
    return next((mark for mark in _DELIMITERS if mark in bare), ",")


def _rows(path: Path, delimiter: str) -> Iterator[Row]:
    with field_limit():
        reader = csv.reader(read_lines(path), delimiter=delimiter, strict=True)
        while True:
            place = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise NewsloraError(f"{path}:{place}: {explain(error)}") from error
            if row is None:
                return
            if row:  # a blank line is no row
                yield place, row


@contextmanager
def field_limit() -> Iterator[None]:
    """Let ``csv`` read cells of up to 1 MiB inside the block; its own limit is an eighth of that."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def explain(error: csv.Error) -> str:
    """Return what is wrong with a row that ``csv`` cannot read, and what would be right."""
    text = reason(error)
    if "unexpected end of data" in text:
        return "the row opens a quote that is never closed; close it"
    if "field larger" in text:
        return f"a field is longer than {LONGEST_CELL >> 20} MiB, or a quote is never closed; close it"
    if "expected after" in text:
        return "text follows a closing quote; double the quotes inside a quoted field"
    return f"cannot be read as CSV ({text.split(' - ')[0]}); quote fields that hold line breaks"


def is_official(first: list[str]) -> bool:
    """Whether a table's first row is an article in AG News' headerless layout, and not a header."""
    if len(first) < 2 or not _INTEGER.fullmatch(first[0]):
        return False
    others = first[1:]
    return not all(map(_INTEGER.fullmatch, others)) and not any(plain_name(cell) in KNOWN_NAMES for cell in others)


def official_names(width: int) -> list[str]:
    """Return the names of the columns of AG News' headerless layout: class, title, description, and any further."""
    names = ["class", "text"] if width == 2 else ["class", "title", "description"]
    return names + [f"column {number}" for number in range(len(names) + 1, width + 1)]


def _check_classes(rows: list[Row], path: Path) -> None:
    for place, row in rows:
        if not _INTEGER.fullmatch(row[0]):
            raise NewsloraError(f"{path}:{place}: class {shown(row[0])} is not an integer, as in the rows above")


def header_names(first: list[str], where: str) -> list[str]:
    """Return the column names that a header gives.

    Raises:
        NewsloraError: Too many columns, two of one name, or a name so long that it must be an article.
    """
    if len(first) > MOST_COLUMNS:
        raise NewsloraError(f"{where}: has {len(first)} columns; at most {MOST_COLUMNS} are read")
    for name in first:
        if len(name) > _LONGEST_NAME:
            raise NewsloraError(
                f"{where}: {shown(name)} is no column's name; add a header such as label,title,description"
            )
    return name_columns(first, where)


def check_width(cells: list[str], names: list[str], where: str) -> None:
    """Check that a row has a cell for each column.

    Raises:
        NewsloraError: It has too few or too many.
    """
    if len(cells) != len(names):
        few = "too few" if len(cells) < len(names) else "too many"
        raise NewsloraError(f"{where}: {few} columns ({len(cells)}); expected {len(names)}: {', '.join(names[:8])}")
