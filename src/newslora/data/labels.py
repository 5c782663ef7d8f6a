"""From labels as written (names, or integers counted from 0 or 1) to classes and back."""

from newslora.data.frame import listed, shown
from newslora.data.sources import Table, integer
from newslora.errors import NewsloraError


def label_names(table: Table) -> tuple[str, ...]:
    """Return the classes' names in order: the known order if there is one, else sorted (integers by value).

    Raises:
        NewsloraError: The table has no labels, or all its rows have the same one.
    """
    kinds = {str(label) for label in table.labels or ()}
    if len(kinds) < 2:
        only = f"every row has the label {shown(next(iter(kinds)))}" if kinds else "has no labels"
        raise NewsloraError(f"{table.source}: {only}; a classifier needs rows of at least two classes")
    if table.classes:
        return table.classes
    numbers = {kind: integer(kind) for kind in kinds}
    if None not in numbers.values():
        return tuple(sorted(kinds, key=lambda kind: (int(float(kind)), kind)))
    return tuple(sorted(kinds))


def label_base(table: Table, names: tuple[str, ...]) -> int | None:
    """Return 0 or 1, from where the table's integer labels count the classes; ``None`` if its labels are names.

    Integers count from 0 when a 0 occurs, from 1 otherwise. Where a class is itself named by an integer, integers are
    names.
    """
    if any(integer(name) is not None for name in names):
        return None
    numbers = {integer(label) for label in set(table.labels or ()) if str(label) not in names} - {None}
    return (0 if 0 in numbers else 1) if numbers else None


def encode_labels(table: Table, names: tuple[str, ...], base: int | None = None) -> list[int]:
    """Return each row's class as its position in ``names``.

    Args:
        table: A table with labels.
        names: Classes in the model's order.
        base: Where integer labels count from, as :func:`label_base` gives it for the training table; from this table
            when ``None``.

    Raises:
        NewsloraError: ``file:line`` of a label that is no class, with those that are; a table without labels.
    """
    if table.labels is None:
        raise NewsloraError(f"{table.source}: has no labels; known labels: {listed(names)}")
    own = label_base(table, names)
    codes = {label: _code(label, names, own if base is None or own is None else base) for label in set(table.labels)}
    known = {label: code for label, code in codes.items() if code is not None}
    if len(known) < len(codes):
        row = next(row for row, label in enumerate(table.labels) if label not in known)
        where = f"{table.source}:{table.places[row]}"
        raise NewsloraError(f"{where}: unknown label {shown(table.labels[row])}; known labels: {listed(names)}")
    return [known[label] for label in table.labels]


def _code(label: str | int, names: tuple[str, ...], base: int | None) -> int | None:
    if str(label) in names:
        return names.index(str(label))
    number = integer(label)
    if number is None or base is None or not 0 <= number - base < len(names):
        return None
    return number - base
