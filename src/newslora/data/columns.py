"""Which columns of a table hold the text and which the label: by name, and otherwise by what is in them."""

import re
from collections.abc import Sequence
from typing import Final

from newslora.data.frame import Frame, listed, shown
from newslora.errors import NewsloraError

LABEL_NAMES: Final = (
    "label",
    "class",
    "class index",
    "class name",
    "category",
    "topic",
    "target",
    "section",
    "labels",
    "y",
)
TITLE_NAMES: Final = ("title", "headline", "subject", "heading")
BODY_NAMES: Final = (
    *("text", "content", "body", "article", "story", "document", "news", "sentence"),
    *("description", "short description", "summary", "abstract"),
)
KNOWN_NAMES: Final = frozenset((*LABEL_NAMES, *TITLE_NAMES, *BODY_NAMES))

_SAMPLE: Final = 1000  # rows looked at when a column is judged by content
_MOST_CLASSES: Final = 100
_SHORTEST_PROSE: Final = 15  # characters
_WORDLIKE: Final = 0.6  # share of letters in prose; dates, numbers and digests have less


def plain_name(name: str) -> str:
    """Return a column's name for comparison: ``Class_Index`` and ``class index`` are one."""
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def find_label(frame: Frame, given: str | None, text: Sequence[str] = ()) -> str | None:
    """Return the name of the label column, or ``None`` if the table seems to have none.

    Args:
        frame: The table.
        given: The column the user names, if any.
        text: Columns known to hold the text.

    Raises:
        NewsloraError: ``given`` is not in the table, or several columns look alike.
    """
    if given is not None:
        return _present(frame, [given], "--data.label")[0]
    rest = [name for name in frame.columns if name not in text]
    if named := _first_named(rest, LABEL_NAMES, frame):
        return named
    likely = [name for name in rest if _looks_like_label(frame.columns[name])]
    # Beside a column of words, one of numbers, dates or yes/no is an attribute, not the topic.
    worded = [name for name in likely if _is_worded(frame.columns[name])]
    return _only(frame, worded or likely, "the label", "--data.label")


def find_text(
    frame: Frame, given: Sequence[str] | None, label: str | None, option: str = "--data.text"
) -> tuple[str, ...]:
    """Return the names of the text columns, title first.

    Args:
        frame: The table.
        given: The columns the user names, if any; their order is kept.
        label: The label column, if known.
        option: What names the columns on the command line, for messages.

    Raises:
        NewsloraError: One of ``given`` is not in the table, or no column can be told to be the text.
    """
    if given is not None:
        return _present(frame, given, option)
    rest = [name for name in frame.columns if name != label]
    named = (_first_named(rest, TITLE_NAMES, frame), _first_named(rest, BODY_NAMES, frame))
    if any(named):
        return tuple(name for name in named if name)
    prose = {name: _prose_length(frame.columns[name]) for name in rest}
    longest = sorted((name for name in rest if prose[name]), key=lambda name: -prose[name])[:2]
    if longest:
        return tuple(name for name in rest if name in longest)
    only = _only(frame, [name for name in rest if _strings(frame.columns[name])], "the text", option)
    if only is None:
        raise NewsloraError(f"{frame.source}: no text column found among {listed(frame.columns)}; name it by {option}")
    return (only,)


def _present(frame: Frame, names: Sequence[str], setting: str) -> tuple[str, ...]:
    for name in names:
        if name not in frame.columns:
            raise NewsloraError(
                f"{frame.source}: {setting} {shown(name)}: no such column; there are {listed(frame.columns)}"
            )
    return tuple(names)


def _first_named(names: Sequence[str], known: Sequence[str], frame: Frame) -> str | None:
    plain = {plain_name(name): name for name in reversed(names)}
    found = (plain[name] for name in known if name in plain)
    return next((name for name in found if known is not LABEL_NAMES or _repeats(frame.columns[name])), None)


def _only(frame: Frame, names: Sequence[str], what: str, setting: str) -> str | None:
    if len(names) > 1:
        columns = f"columns: {listed(frame.columns)}"
        raise NewsloraError(f"{frame.source}: {what} may be any of {listed(names)} ({columns}); name it by {setting}")
    return names[0] if names else None


def _cells(column: Sequence[object]) -> list[str]:
    """Return a sample of the cells as text, drawn evenly from the whole column."""
    step = max(1, len(column) // _SAMPLE)
    return [str(cell).strip() for cell in column[::step] if cell is not None]


def _strings(column: Sequence[object]) -> bool:
    return any(isinstance(cell, str) for cell in column[:_SAMPLE])


def _repeats(column: Sequence[object]) -> bool:
    # A named column is believed unless all but every row has a value of its own, as a title or an id does.
    cells = _cells(column)
    return len(cells) < 20 or 2 * len(set(cells)) <= len(cells)


def _looks_like_label(column: Sequence[object]) -> bool:
    cells = _cells(column)
    kinds = set(cells)
    return 2 <= len(kinds) <= _MOST_CLASSES and 2 * len(kinds) <= len(cells) and max(map(len, kinds)) <= 64


def _is_worded(column: Sequence[object]) -> bool:
    kinds = {cell.casefold() for cell in _cells(column)}
    truths = {"true", "false", "yes", "no", "y", "n", "t", "f", ""}
    return not kinds <= truths and all(any(map(str.isalpha, kind)) for kind in kinds if kind)


def _prose_length(column: Sequence[object]) -> float:
    """Return the mean length in characters if the column reads like prose, else 0."""
    cells = [cell for cell in _cells(column) if cell] if _strings(column) else []
    joined = "".join(cells)
    if not cells or len(joined) < _SHORTEST_PROSE * len(cells) or 2 * len(set(cells)) < len(cells):
        return 0.0
    spaced = sum(" " in cell or not cell.isascii() for cell in cells)
    letters = sum(map(str.isalpha, joined))
    wordlike = 2 * spaced >= len(cells) and letters >= _WORDLIKE * len(joined)
    return len(joined) / len(cells) if wordlike else 0.0
