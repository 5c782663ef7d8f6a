"""Tables of articles: CSV, TSV, JSONL and Parquet files (also gzipped), hub data sets, and the packaged sample."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final

from newslora.config import DataConfig
from newslora.data.columns import find_label, find_text
from newslora.data.delimited import read_delimited
from newslora.data.frame import ABSENT, LONGEST_CELL, Frame, listed, shown
from newslora.data.hub import read_hub
from newslora.data.jsonl import read_jsonl
from newslora.data.lines import read_lines
from newslora.data.parquet import read_parquet
from newslora.errors import NewsloraError

SAMPLE: Final = "sample"
_READERS: Final[dict[str, Callable[[Path], Frame]]] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_jsonl,
    ".parquet": read_parquet,
}
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_INTEGER: Final = re.compile(r"[+-]?\d{1,9}(\.0+)?")


@dataclass(frozen=True)
class Table:
    """A table of articles as read, labels still as written.

    Attributes:
        source: Path or hub id as given.
        texts: Text columns joined by a blank, in order (title, then description).
        labels: One a row; ``None`` when the table has no label column.
        places: 1-based line of each row in its file; row number for Parquet and the hub.
        classes: Names in order, known from the settings, the file, or a ``classes.txt`` beside it.
        text_columns: Names of the columns that the texts come from.
        label_column: Name of the column that the labels come from.
        label_sets: Each article's labels, in place of ``labels`` where it may carry several (``data.multi_label``).
    """

    source: str
    texts: list[str]
    labels: list[str | int] | None
    places: list[int]
    classes: tuple[str, ...] | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    label_sets: list[tuple[str | int, ...]] | None = None


def integer(label: str | int) -> int | None:
    """Return the integer that a label is or spells (``3``, ``"3"``, ``"3.0"``), else ``None``."""
    if isinstance(label, int):
        return label
    return int(float(label)) if _INTEGER.fullmatch(label) else None


def read_table(
    source: str, config: DataConfig, *, split: str = "train", need_label: bool = True, like: Table | None = None
) -> Table:
    """Read a table and find its text and its labels.

    Args:
        source: A file, a hub data set's id, or ``sample``.
        config: Gives the columns and classes if the user names them, and the hub's configuration and revision.
        split: Split of a hub data set.
        need_label: Whether a table without labels is refused.
        like: The training table, whose columns are taken where this one has them too.

    Raises:
        NewsloraError: The table cannot be had or read; a column cannot be found; a label is missing; ``file:line``
            of a row that is at fault.
    """
    frame = replace(_read_frame(source, config, split), source=source)  # by the name that it was asked for
    return make_table(frame, config, need_label=need_label, like=like)


def make_table(frame: Frame, config: DataConfig, *, need_label: bool = True, like: Table | None = None) -> Table:
    """Find the text and the labels of a table that is read; arguments and faults are those of :func:`read_table`."""
    source, config = frame.source, _with_columns(config, frame, like)
    label = (
        find_label(frame, config.label, config.text or ())
        if need_label or config.label
        else _named_label(frame, config)
    )
    if label is None and need_label:
        raise NewsloraError(f"{source}: no label column found among {listed(frame.columns)}; name it by --data.label")
    text = find_text(frame, config.text, label)
    sets = _label_sets(frame, label, config) if label else None
    labels = [one for labels in sets for one in labels] if sets else None
    classes = (
        (config.classes or frame.classes.get(label) or _classes_beside(source, labels)) if label and labels else None
    )
    several = config.multi_label
    return Table(
        source,
        _texts(frame, text),
        None if several else labels,
        frame.places,
        classes,
        text,
        label,
        sets if several else None,
    )


def _read_frame(source: str, config: DataConfig, split: str) -> Frame:
    if source == SAMPLE:
        return read_jsonl(_sample_folder() / ("test.jsonl" if split == "test" else "train.jsonl"))
    path = Path(source)
    reader = _READERS.get(Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower())
    if path.is_file() and reader:
        return read_parquet(path, lists=config.multi_label) if reader is read_parquet else reader(path)
    if not path.exists() and not reader and _HUB_ID.fullmatch(source):
        return read_hub(source, config, split)
    raise NewsloraError(f"{source}: {_unreadable(path)}")


def _unreadable(path: Path) -> str:
    kinds = f"one of {', '.join(_READERS)}, also .gz"
    if path.is_dir():
        return f"is a folder; give a file, {kinds}"
    return f"unknown kind of table; give {kinds}" if path.exists() else "no such file"


def _sample_folder() -> Path:
    return Path(str(resources.files("newslora"))) / "data" / "sample"


def _with_columns(config: DataConfig, frame: Frame, like: Table | None) -> DataConfig:
    if like is None:
        return config
    text = like.text_columns if set(like.text_columns) <= frame.columns.keys() else None
    label = like.label_column if like.label_column in frame.columns else None
    return config.model_copy(update={"text": config.text or text, "label": config.label or label})


def _named_label(frame: Frame, config: DataConfig) -> str | None:
    # Where labels are not needed, doubt about which column holds them is no reason to refuse the table.
    try:
        return find_label(frame, config.label, config.text or ())
    except NewsloraError:
        return None


def _texts(frame: Frame, names: Sequence[str]) -> list[str]:
    columns = [[_text(cell, frame, row, name) for row, cell in enumerate(frame.columns[name])] for name in names]
    return [" ".join(part for part in parts if part) for parts in zip(*columns, strict=True)]


def _text(cell: object, frame: Frame, row: int, name: str) -> str:
    if isinstance(cell, str) and len(cell) <= LONGEST_CELL:
        return cell
    if cell is None:
        return ""
    if isinstance(cell, int | float):
        return str(cell)
    raise NewsloraError(f"{frame.source}:{frame.places[row]}: {_fault(cell, name)}; give text")


def _label_sets(frame: Frame, column: str, config: DataConfig) -> list[tuple[str | int, ...]]:
    """Return each row's labels: one, or with ``data.multi_label`` one or more, each once."""
    sets = []
    for row, cell in enumerate(frame.columns[column]):
        parts: list[object] = [cell]
        if config.multi_label and isinstance(cell, str):
            parts = [*cell.split(config.separator)]
        elif config.multi_label and isinstance(cell, list):
            parts = cell or [None]
        labels = [_label(part, frame, row) for part in parts]
        topics = [topic for label in labels for topic in _topics(label, config.hierarchy, frame, row)]
        sets.append(tuple(dict.fromkeys(topics)))
    return sets


def _topics(label: str | int, between: str | None, frame: Frame, row: int) -> list[str | int]:
    """Return a label and the topics above it, from the top: ``Sports/Tennis`` is Sports and Sports/Tennis."""
    if between is None or isinstance(label, int):
        return [label]
    path = [topic.strip() for topic in label.split(between)]
    if not all(path):
        where = f"{frame.source}:{frame.places[row]}"
        raise NewsloraError(f"{where}: label {shown(label)} has a topic without a name; expected A{between}B")
    return [between.join(path[:depth]) for depth in range(1, len(path) + 1)]


def _label(cell: object, frame: Frame, row: int) -> str | int:
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, bool) or (isinstance(cell, str) and cell.strip()):
        return str(cell).strip()
    if isinstance(cell, int):
        return cell
    what = "label is missing" if cell is None or cell == "" else _fault(cell, "label")
    raise NewsloraError(
        f"{frame.source}:{frame.places[row]}: {what}; give each row one label"
        + (", or set data.multi_label" if isinstance(cell, list) else "")
    )


def _fault(cell: object, name: str) -> str:
    if cell is ABSENT:
        return f"has no column {shown(name)}"
    if isinstance(cell, str):
        return f"column {shown(name)} is blank or longer than {LONGEST_CELL >> 20} MiB"
    return f"column {shown(name)} holds {shown(cell)}"


def _classes_beside(source: str, labels: Sequence[str | int]) -> tuple[str, ...] | None:
    """Return the names in ``classes.txt`` beside the file, if the labels are integers or some of these names."""
    path = (_sample_folder() if source == SAMPLE else Path(source).parent) / "classes.txt"
    if not path.is_file():
        return None
    names = tuple(name for line in read_lines(path) if (name := line.strip()))
    if len(set(names)) < len(names):
        raise NewsloraError(f"{path}: a class is named twice; give one name a line")
    kinds = set(labels)
    return names if not kinds.isdisjoint(names) or all(integer(kind) is not None for kind in kinds) else None
