"""Bad tables by the thousand through the readers of ``train`` and ``predict``: no traceback, no hang, no flood of memory.

Each table goes through both readers in a child with 10 seconds and, above what it began with, 1 GiB.
"""

import contextlib
import csv
import functools
import gzip
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.newsroom import articles
from tests.soak.ledger import open_ledger

from newslora.config import DataConfig
from newslora.data.sources import read_table
from newslora.data.stream import open_rows
from newslora.errors import NewsloraError

SECONDS = 10
MEMORY = 1 << 30
KINDS = ("csv", "tsv", "jsonl", "parquet")
PIECES = (b'"', b"\0", b"\xe9", b"\xff\xfe", b"\r", b"\n", b",", b"\t", b"\\ud800", b"\xef\xbb\xbf", b"NaN", b"1e999")


def rows_of(draw: random.Random) -> list[dict[str, str]]:
    return [{"label": label, "text": text} for label, text in articles(draw.choice([1, 2, 8, 40]), draw.randrange(99))]


def write(rows: list[dict[str, Any]], kind: str) -> bytes:
    """Return a sound table's bytes."""
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list({name: 0 for row in rows for name in row}), delimiter="\t" if kind == "tsv" else ","
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def insert(content: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.choice([1, 1, 3, 20])):
        place = draw.randrange(len(content) + 1)
        content = content[:place] + draw.choice(PIECES) + content[place + draw.choice([0, 1, 9]) :]
    return content


def overwrite(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.randbytes(draw.choice([1, 4, 64])) + content[place + 4 :]


def repeat(content: bytes, draw: random.Random) -> bytes:
    start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:stop] + content[start:stop] * draw.choice([1, 2, 50]) + content[stop:]


def giant(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    filler = draw.choice([b"x", b"a,b", b'"', b"\n", b"[", b'{"a":', b"word "])
    return content[:place] + filler * (draw.choice([1 << 12, 1 << 18, 1 << 23]) // len(filler)) + content[place:]


def recode(content: bytes, draw: random.Random) -> bytes:
    text = content.decode("latin-1") + "é€ü"
    half = len(text) // 2
    codes = draw.choice([("utf-16", "utf-16"), ("utf-8", "cp1252"), ("utf-8", "utf-16-le"), ("utf-32", "utf-8")])
    return b"".join(part.encode(code, "replace") for part, code in zip((text[:half], text[half:]), codes, strict=True))


def nothing(content: bytes, draw: random.Random) -> bytes:
    return draw.choice([b"", b"\n" * 999, b"\0" * 4096, b"\xef\xbb\xbf", b"[]", b"{}", b"PK\3\4", b"PAR1PAR1", b'"'])


def nest(content: bytes, draw: random.Random) -> bytes:
    depth = draw.choice([99, 9_999, 500_000])
    return draw.choice(
        [
            b'{"text": ' + b"[" * depth + b"]" * depth + b', "label": "a"}\n',
            b'{"text":' * depth + b"1" + b"}" * depth + b"\n",
            content + b"[" * depth,
        ]
    )


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(cut, insert, overwrite, repeat, giant, recode, nothing, nest),
)


def strange_rows(draw: random.Random) -> list[dict[str, Any]]:
    """Return rows whose columns or values are not what a reader hopes for."""
    rows: list[dict[str, Any]] = [dict(row) for row in rows_of(draw)]
    column = draw.choice(["text", "label"])
    value = draw.choice([None, "", " ", 3, -1, 2.5, True, ["a"], {"a": 1}, "\ud7ff", "9" * 400, float("nan")])
    match draw.randrange(4):
        case 0:
            for row in rows:
                row[column] = value
        case 1:
            rows = [{f"{name}{draw.randrange(3)}": value for name, value in rows[0].items()} for _ in rows]
        case 2:
            rows = [{name: value for name, value in row.items() if name != column} for row in rows]
        case _:
            rows = [row | {f"c{i}": "x" for i in range(draw.choice([1, 300]))} for row in rows]
    return rows


@functools.cache
def bomb() -> bytes:
    """Return 320 MiB in 300 KiB."""
    return gzip.compress(b"word " * (1 << 26), 9)


def make(draw: random.Random) -> tuple[str, bytes, str]:
    """Return a file's ending, its bytes, and how it was damaged."""
    kind = draw.choice(KINDS)
    strange = draw.random() < 0.2
    content = b""
    with contextlib.suppress(pa.ArrowException, UnicodeError, OverflowError):  # not everything can be written at all
        content = write(strange_rows(draw) if strange else rows_of(draw), kind)
    damages = [] if strange and content else draw.choices(DAMAGES, k=draw.choice([1, 1, 2]))
    for damage in damages:
        content = damage(content, draw)
    told = "+".join(damage.__name__ for damage in damages) or "strange columns"
    if draw.random() > 0.25:
        return f".{kind}", content, told
    packed = gzip.compress(content, 1)
    if draw.random() < 0.1:
        return f".{kind}.gz", bomb(), "gzip bomb"
    if draw.random() < 0.5:
        return f".{kind}.gz", draw.choice([cut, overwrite])(packed, draw), f"{told}, then its gzip"
    return f".{kind}.gz", packed, f"{told}, in gzip"


def read_both(path: Path) -> str:
    """Read a table as train and as predict do; return what is wrong, or nothing."""
    for reader in (_train, _predict):
        try:
            reader(str(path))
        except NewsloraError as error:
            text = str(error)
            if "\n" in text or not text.startswith(str(path)) or len(text) > 2000:
                return f"{reader.__name__}: not one line that names the file: {text[:200]!r}"
        except BaseException as error:
            return f"{reader.__name__}: {type(error).__name__}: {str(error)[:200]}"
    return ""


def _train(source: str) -> None:
    table = read_table(source, DataConfig())
    assert len(table.texts) == len(table.places) == len(table.labels or ()) > 0


def _predict(source: str) -> None:
    with open_rows(source) as stream:
        for row in stream.rows:
            assert row.fault is None or ("\n" not in row.fault and row.fault.startswith(f"{source}:{row.place}"))


def in_child(path: Path) -> str:
    """Read in a forked child under limits; return what is wrong, or nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        os.close(reading)
        before = _resident()
        result = read_both(path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        result = result or (f"took {grown >> 20} MiB" if grown > MEMORY else "")
        os.write(writing, result.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"over {SECONDS} s" if status == -signal.SIGALRM else result or (f"ended with {status}" if status else "")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Tables:
    """Tables in one folder, one at a time."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def trial(self, number: int, draw: random.Random) -> dict[str, Any]:
        ending, content, told = make(draw)
        path = self.place / f"table{ending}"
        path.write_bytes(content)
        wrong = in_child(path)
        path.unlink()
        what = f"{told} ({ending}, {len(content)} bytes, crc {zlib.crc32(content):08x}){': ' + wrong if wrong else ''}"
        return {"ok": not wrong, "kind": told.split(",")[0].split("+")[0], "what": what}


def main() -> int:
    ledger, _ = open_ledger("tables", 10_000)
    with tempfile.TemporaryDirectory() as place:
        return ledger.run(Tables(Path(place)).trial)


if __name__ == "__main__":
    sys.exit(main())
