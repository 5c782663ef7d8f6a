"""JSON Lines: one object a line."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from newslora.data.frame import ABSENT, Frame, reason
from newslora.data.lines import read_lines
from newslora.errors import NewsloraError


def read_jsonl(path: Path) -> Frame:
    """Read a file of one JSON object a line; blank lines are skipped.

    Raises:
        NewsloraError: ``file:line`` of a line that is no JSON object, or of what
            :func:`newslora.data.lines.read_lines` refuses; a file without rows.
    """
    places: list[int] = []
    rows: list[dict[str, Any]] = []
    for place, line in enumerate(read_lines(path), start=1):
        if not line.isspace():
            rows.append(parse_object(line, f"{path}:{place}"))
            places.append(place)
    columns = {name: [row.get(name, ABSENT) for row in rows] for name in _names(rows)}
    return Frame(str(path), columns, places).check()


def _names(rows: list[dict[str, Any]]) -> list[str]:
    # Text and label stand in every row; keys that most rows lack would only fill memory.
    counts = Counter(name for row in rows for name in row)
    return [name for name, count in counts.items() if 2 * count >= len(rows)]


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Return the JSON object that a line holds.

    Raises:
        NewsloraError: It is no JSON object, or holds half of a character.
    """
    try:
        value = json.loads(line)
        if "\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair passes JSON but is no text
    except UnicodeEncodeError as error:
        raise NewsloraError(f"{where}: holds half of a surrogate pair (\\ud8xx); write the character whole") from error
    except (ValueError, RecursionError) as error:
        fault = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else reason(error)
        raise NewsloraError(f"{where}: not readable as JSON ({fault}); give one object a line") from error
    if not isinstance(value, dict):
        raise NewsloraError(f"{where}: holds a JSON {type(value).__name__}; give one object a line")
    return value
