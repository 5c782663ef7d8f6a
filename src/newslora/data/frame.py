"""A table as its file holds it: every column, before anyone has decided which is text and which is label."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from newslora.errors import NewsloraError

LONGEST_CELL: Final = 1 << 20
"""Most bytes of a line, and most characters of a cell: what is longer is no article."""
MOST_COLUMNS: Final = 4096
"""Most columns of a table: what is wider is no table of articles."""
ABSENT: Final = object()
"""Stands where a JSON row has no such key at all; ``None`` is a key whose value is null."""


@dataclass(frozen=True)
class Frame:
    """Columns of equal height with the place of each row.

    Attributes:
        source: Path or hub id as given.
        columns: Cells by column name, in the file's order.
        places: 1-based line of each row in its file; row number for Parquet and the hub.
        classes: Names in order, for the columns whose file declares them (a ``ClassLabel``); their cells hold names.
    """

    source: str
    columns: dict[str, list[object]]
    places: list[int]
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self) -> "Frame":
        """Return the frame itself if it has rows and a sane width.

        Raises:
            NewsloraError: No rows, or too many columns.
        """
        if len(self.columns) > MOST_COLUMNS:
            raise NewsloraError(f"{self.source}: has {len(self.columns)} columns; at most {MOST_COLUMNS} are read")
        if not self.places:
            raise NewsloraError(f"{self.source}: holds no rows; give a table with one article a row")
        return self


def shown(value: object) -> str:
    """Return ``value`` for a one-line message: quoted, escaped and cut."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def listed(names: Iterable[object]) -> str:
    """Return names for a one-line message, the first twenty of them."""
    texts = [shown(name)[1:-1] if isinstance(name, str) else shown(name) for name in islice(names, 21)]
    return ", ".join(texts[:20]) + (", …" if len(texts) > 20 else "")


def reason(error: BaseException) -> str:
    """Return another library's message on one line, without what it repeats."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def name_columns(names: list[str], where: str) -> list[str]:
    """Return a header's names stripped, the nameless ones numbered.

    Raises:
        NewsloraError: Two columns bear one name.
    """
    found = [name.strip() or f"column {number}" for number, name in enumerate(names, start=1)]
    twice = sorted({name for name in found if found.count(name) > 1}) if len(set(found)) < len(found) else []
    if twice:
        raise NewsloraError(f"{where}: two columns are named {shown(twice[0])}; give each its own name")
    return found


def decode_classes(cells: list[object], names: tuple[str, ...]) -> list[object]:
    """Turn the codes of a ``ClassLabel`` column into names; a code without a name (-1: no label) becomes ``None``."""
    return [names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else None for cell in cells]
