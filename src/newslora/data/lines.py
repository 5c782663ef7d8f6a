"""Lines of a text file, plain or gzipped, in bounded memory: what is no table of text is refused where it stands."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from newslora.data.frame import LONGEST_CELL, reason
from newslora.errors import NewsloraError

_UNCHECKED: Final = 16 << 20
_EXPANSION: Final = 100
_BLANK: Final = (b"\n", b"\r\n")
_MOST_BLANK: Final = 100_000
_GZIP_MAGIC: Final = b"\x1f\x8b"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")


class NoTable(NewsloraError):
    """What is read cannot be a table, however it goes on: no later row is worth reading."""


class Expansion:
    """Counts what a compressed file unfolds to, and refuses a bomb.

    Text shrinks three- to tenfold; a file that unfolds more than a hundredfold, past the first 16 MiB, is no table.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._packed = path.stat().st_size
        self._unfolded = 0

    def add(self, size: int) -> None:
        """Count ``size`` bytes more.

        Raises:
            NoTable: The file unfolds to more than a hundred times its size.
        """
        self._unfolded += size
        if self._unfolded > max(_UNCHECKED, _EXPANSION * self._packed):
            raise NoTable(f"{self._path}: unfolds to more than {_EXPANSION} times its size; that is no table of text")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong while reading ``path`` into one line.

    Raises:
        NewsloraError: The file cannot be read, or its compression is broken.
    """
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NewsloraError(f"{path}: broken gzip ({reason(error)}); copy or compress it again") from error
    except OSError as error:
        raise NewsloraError(f"{path}: cannot be read ({reason(error)})") from error


def open_bytes(path: Path) -> BinaryIO:
    """Open ``path`` for reading, unzipped on the way when its name ends in ``.gz``."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def read_bytes(path: Path) -> bytes:
    """Return all of a gzipped file that is read whole.

    Raises:
        NewsloraError: It cannot be read, is broken, or is a bomb.
    """
    expansion, pieces = Expansion(path), []
    with reading(path), open_bytes(path) as file:
        while piece := file.read(LONGEST_CELL):
            expansion.add(len(piece))
            pieces.append(piece)
    return b"".join(pieces)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the file's lines with their ends, decoded from UTF-8 (a byte order mark is dropped).

    Args:
        path: A text file; unzipped on the way when its name ends in ``.gz``.

    Raises:
        NewsloraError: ``file:line`` of a byte that is no UTF-8, of a NUL, or of a line beyond 1 MiB; a file that
            cannot be read, is broken, or is no table (:class:`NoTable`).
    """
    with reading(path), open_bytes(path) as file:
        yield from Lines(file, str(path), Expansion(path))


class Lines:
    """Decoded lines with their ends; after a line that raises, the next call goes on with the line after it.

    Args:
        stream: Where they are read from.
        source: Its name, for messages.
        expansion: Counts what is read of a file.

    Attributes:
        number: 1-based number of the line read last.
    """

    def __init__(self, stream: BinaryIO, source: str, expansion: Expansion | None = None) -> None:
        self.source = source
        self.number = 0
        self._stream = stream
        self._expansion = expansion
        self._blank = 0
        self._broken_off = False

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        while self._broken_off:
            self._read()
        raw = self._read()
        if not raw:
            raise StopIteration
        self.number += 1
        self._blank = self._blank + 1 if raw in _BLANK else 0
        if self._blank > _MOST_BLANK:
            raise NoTable(
                f"{self.source}:{self.number}: {_MOST_BLANK:,} blank lines in a row; that is no table of text"
            )
        return _decode_line(raw, self.source, self.number)

    def _read(self) -> bytes:
        raw = self._stream.readline(LONGEST_CELL + 1)
        self._broken_off = len(raw) > LONGEST_CELL and raw[-1:] != b"\n"
        if self._expansion is not None:
            self._expansion.add(len(raw))
        return raw


def _decode_line(raw: bytes, source: str, number: int) -> str:
    if number == 1:
        _check_start(raw, f"{source}:{number}")
    if len(raw) > LONGEST_CELL:
        raise NewsloraError(f"{source}:{number}: line is longer than {LONGEST_CELL >> 20} MiB; give one article a row")
    if b"\0" in raw:
        raise NewsloraError(f"{source}:{number}: holds a NUL byte; give a table of UTF-8 text")
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise NewsloraError(f"{source}:{number}: byte 0x{byte:02x} is not UTF-8; save the table as UTF-8") from error


def _check_start(raw: bytes, where: str) -> None:
    if raw.startswith(_GZIP_MAGIC):
        raise NoTable(f"{where}: is gzip; let the file's name end in .gz")
    if raw.startswith(_UTF16_MARKS):
        raise NoTable(f"{where}: is UTF-16; save the table as UTF-8")
