"""What became of a run's rows: read, repaired, dropped and shared, as plain JSON values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from newslora.data.filters import Filtered
from newslora.data.label_sets import Sets
from newslora.data.leaks import EXAMPLES, example, find_leaks
from newslora.data.sources import Table

if TYPE_CHECKING:
    from newslora.data.prepare import Split


@dataclass(frozen=True)
class RowCounts:
    """How many rows there are to train on.

    Attributes:
        train: Training rows; of a stream, the first window's.
        validation: Validation rows.
        test: Test rows, if a test table was given.
        dropped: Rows filtered out.
        names: The classes.
        streamed: Whether more training rows come while training.
    """

    train: int
    validation: int
    test: int | None
    dropped: int
    names: tuple[str, ...]
    streamed: bool


def describe(
    tables: Mapping[str, Table],
    texts: Mapping[str, list[str]],
    splits: Mapping[str, "Split"],
    names: Sequence[str],
    kinds: Sets | None,
) -> dict[str, Any]:
    """Return the counts of rows and classes, and the rows that stand on two sides.

    Args:
        tables: As read, by side (train, validation, test).
        texts: Their texts as repaired.
        splits: What is trained on, validated and tested.
        names: The classes.
        kinds: Kinds of articles where they carry several labels.
    """
    return {
        "tables": {side: _table_report(table, texts[side]) for side, table in tables.items()},
        "rows": {side: len(split.texts) for side, split in splits.items()},
        "classes": {side: _shares(split, names, kinds) for side, split in splits.items()},
        "leaks": {
            f"{side} in {other}": find_leaks(
                splits[side].texts, splits[side].where(), splits[other].texts, splits[other].where()
            )
            for side, other in (("validation", "train"), ("test", "train"), ("test", "validation"))
            if side in splits
        },
    }


def _table_report(table: Table, repaired: Sequence[str]) -> dict[str, Any]:
    changed = sum(before != after for before, after in zip(table.texts, repaired, strict=True))
    columns = {"text": list(table.text_columns), "label": table.label_column}
    return {"source": table.source, "columns": columns, "rows": len(repaired), "repaired": changed}


def _shares(split: "Split", names: Sequence[str], kinds: Sets | None) -> dict[str, float]:
    counts = np.bincount(split.labels, minlength=len(names)) if kinds is None else kinds[split.labels].sum(axis=0)
    return {name: round(float(count) / len(split.labels), 6) for name, count in zip(names, counts, strict=True)}


def describe_filters(whole: "Split", filtered: Filtered) -> dict[str, Any]:
    """Return how many rows each filter took, with examples."""
    where = whole.where()
    return {
        name: {"rows": len(rows), "examples": [example(whole.texts[row], where[row]) for row in rows[:EXAMPLES]]}
        for name, rows in filtered.dropped.items()
    }
