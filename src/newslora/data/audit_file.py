"""The file that an audit writes, most suspicious row first, and that training reads to leave the flagged rows out."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from newslora.data.delimited import read_delimited
from newslora.data.frame import Frame, shown
from newslora.data.sources import integer
from newslora.data.splits import Rows
from newslora.errors import NewsloraError
from newslora.files import writing

COLUMNS: Final = ("rank", "place", "label", "suggested", "score", "drop", "reasons", "text")
_MARKS: Final = {True: "yes", False: "no"}


@dataclass(frozen=True)
class Verdict:
    """What an audit makes of one row.

    Attributes:
        place: 1-based line of the row in its file; row number for Parquet and the hub.
        label: Name of the class that the row is labelled with.
        suggested: Name of the most probable other class, or the label itself where nothing speaks against it.
        score: How probable it is that the label is wrong, in [0, 1].
        drop: Whether training on the file should leave the row out.
        reasons: Why, each a short sentence.
        text: The repaired article.
    """

    place: int
    label: str
    suggested: str
    score: float
    drop: bool
    reasons: tuple[str, ...]
    text: str


def write_audit(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write verdicts as CSV, in the order given, which is their rank.

    Raises:
        NewsloraError: The file cannot be written.
    """
    with writing(path) as staged, staged.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for rank, row in enumerate(verdicts, start=1):
            cells = (rank, row.place, row.label, row.suggested, f"{row.score:.6f}", _MARKS[row.drop])
            writer.writerow([*cells, "; ".join(row.reasons), row.text])


def read_flagged(source: str, places: Sequence[int], labels: Sequence[str], table: str) -> Rows:
    """Return the positions of a table's rows that an audit of it says to drop, ascending, int64.

    Args:
        source: The CSV file of the audit.
        places: The table's places, by position.
        labels: The name of each row's class, by position.
        table: The table's path or id, for messages.

    Raises:
        NewsloraError: The file cannot be read, lacks a column, holds anything but yes and no under ``drop``, or is
            the audit of other rows than the table's (``file:line`` of the first that tells).
    """
    frame = _read(source)
    known = {place: row for row, place in enumerate(places)}
    flagged = []
    marks = zip(frame.places, *(frame.columns[name] for name in ("place", "label", "drop")), strict=True)
    for line, place, label, drop in marks:
        row = known.get(number) if (number := integer(str(place))) is not None else None
        if row is None or labels[row] != label:
            there = f"has the label {shown(labels[row])}" if row is not None else "is missing"
            told = f"row {place} of {table}, which {there}, is labelled {shown(label)} here"
            raise NewsloraError(f"{source}:{line}: {told}; give the audit of that very table")
        if drop not in _MARKS.values():
            raise NewsloraError(f"{source}:{line}: column 'drop' holds {shown(drop)}; give yes or no")
        if drop == _MARKS[True]:
            flagged.append(row)
    return np.unique(np.array(flagged, dtype=np.int64))


def _read(source: str) -> Frame:
    if not Path(source).is_file():
        raise NewsloraError(f"{source}: no such file; give the CSV that newslora audit wrote")
    frame = read_delimited(Path(source))
    missing = [name for name in ("place", "label", "drop") if name not in frame.columns]
    if missing:
        raise NewsloraError(f"{source}: has no column {shown(missing[0])}; give the CSV that newslora audit wrote")
    return frame
