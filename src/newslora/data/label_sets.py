"""Articles that carry several labels: from the labels as written to which of the classes each article carries.

Rows with the same labels are of one kind. Kinds are numbered, so that all that asks for a row's one class (the split by
class, the draw of a part, the filter of texts under differing labels) works on kinds as it stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from newslora.data.labels import encode_labels
from newslora.data.sources import Table
from newslora.errors import NewsloraError

Sets = NDArray[np.float32]
"""1 where an article (or a kind of articles) carries the class, else 0: [rows, classes]."""


def flat(table: Table) -> Table:
    """Return a table with a row for each label of each article, without its texts.

    Raises:
        NewsloraError: The table has no labels.
    """
    if table.label_sets is None:
        raise NewsloraError(f"{table.source}: has no labels; name their column by --data.label")
    pairs = [(label, place) for s, place in zip(table.label_sets, table.places, strict=True) for label in s]
    labels, places = [label for label, _ in pairs], [place for _, place in pairs]
    return replace(table, texts=[""] * len(pairs), labels=labels, places=places, label_sets=None)


def encode_sets(table: Table, names: tuple[str, ...], base: int | None = None) -> Sets:
    """Return which classes each article carries.

    Args:
        table: A table whose articles carry several labels.
        names: Classes in the model's order.
        base: As for :func:`newslora.data.labels.encode_labels`.

    Raises:
        NewsloraError: ``file:line`` of a label that is no class; a table without labels.
    """
    codes = encode_labels(flat(table), names, base)
    rows = np.repeat(np.arange(len(table.places)), [len(labels) for labels in table.label_sets or ()])
    sets: Sets = np.zeros((len(table.places), len(names)), dtype=np.float32)
    sets[rows, codes] = 1.0
    return sets


def number_kinds(sides: Mapping[str, Sets]) -> tuple[Sets, dict[str, list[int]]]:
    """Return the kinds of articles there are, [kinds, classes], and each article's kind by side."""
    kinds, numbers = np.unique(np.concatenate(list(sides.values())), axis=0, return_inverse=True)
    ends = np.cumsum([len(sets) for sets in sides.values()])[:-1]
    parts = np.split(numbers.ravel(), ends)
    return kinds, {side: part.tolist() for side, part in zip(sides, parts, strict=True)}


def written_set(carried: Sequence[bool] | NDArray[np.bool_], names: Sequence[str], separator: str) -> str:
    """Return the labels of one article as one cell: ``Business|Sci/Tech``."""
    return separator.join(name for name, has in zip(names, carried, strict=True) if has)
