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
_GZIP_MAGIC: Final = b"\x1f\x8b"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")


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
            NewsloraError: The file unfolds to more than a hundred times its size.
        """
        self._unfolded += size
        if self._unfolded > max(_UNCHECKED, _EXPANSION * self._packed):
            raise NewsloraError(
                f"{self._path}: unfolds to more than {_EXPANSION} times its size; that is no table of text"
            )


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
            cannot be read, is broken, or unfolds to more than a hundred times its size.
    """
    with reading(path), open_bytes(path) as file:
        expansion = Expansion(path)
        number = 0
        while raw := file.readline(LONGEST_CELL + 1):
            number += 1
            expansion.add(len(raw))
            yield decode_line(raw, path, number)


def decode_line(raw: bytes, path: Path, number: int) -> str:
    """Return a line's text; the file's first may begin with a byte order mark.

    Raises:
        NewsloraError: ``file:line`` of a byte that is no UTF-8, of a NUL, or of a line beyond 1 MiB.
    """
    where = f"{path}:{number}"
    if number == 1:
        _check_start(raw, where)
    if len(raw) > LONGEST_CELL:
        raise NewsloraError(f"{where}: line is longer than {LONGEST_CELL >> 20} MiB; give one article a row")
    if b"\0" in raw:
        raise NewsloraError(f"{where}: holds a NUL byte; give a table of UTF-8 text")
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise NewsloraError(f"{where}: byte 0x{byte:02x} is not UTF-8; save the table as UTF-8") from error


def _check_start(raw: bytes, where: str) -> None:
    if raw.startswith(_GZIP_MAGIC):
        raise NewsloraError(f"{where}: is gzip; let the file's name end in .gz")
    if raw.startswith(_UTF16_MARKS):
        raise NewsloraError(f"{where}: is UTF-16; save the table as UTF-8")
