"""Writing files so that a reader sees the old content or the new, never half of either; reading them with limits."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from newslora.errors import NewsloraError


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Hand out a temporary name beside ``path``; rename it to ``path`` once the block ends without an error.

    What is written may be a file or a folder; an existing file of that name is replaced, an existing folder is swapped.

    Args:
        path: Where the finished file or folder shall stand. Missing parents are made.

    Yields:
        The temporary path to write to. The block must create it.

    Raises:
        NewsloraError: The disk is full, or the place cannot be written to.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield staged
        _commit(staged, path)
    except OSError as error:
        raise NewsloraError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another place"
        ) from error
    finally:
        # What cannot be removed keeps its temporary name: the block's own error is the one to tell.
        with suppress(OSError):
            _remove(staged)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all.

    Raises:
        NewsloraError: The disk is full, or the place cannot be written to.
    """
    with writing(path) as staged:
        staged.write_text(text, encoding="utf-8")


def read_bytes(file: Path, most: int, advice: str) -> bytes:
    """Return the content of a file that a stranger may have made.

    Args:
        file: A plain file; a link is not followed, and a device or pipe not waited for.
        most: Bytes it may have at most.
        advice: What to do if it is missing or unfit, for the message.

    Raises:
        NewsloraError: It cannot be read, is no plain file, or is larger.
    """
    try:
        content = _read_plain(file, most + 1)
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise NewsloraError(f"{file}: cannot be read ({reason}); {advice}") from error
    if content is None:
        raise NewsloraError(f"{file}: is no plain file; {advice}")
    if len(content) > most:
        raise NewsloraError(f"{file}: is larger than the {most:,} bytes that such a file may have; {advice}")
    return content


def read_json(file: Path, most: int, advice: str) -> dict[str, Any]:
    """Return the object in a JSON file that a stranger may have made; see :func:`read_bytes`.

    Raises:
        NewsloraError: It cannot be read, is too large, or holds no JSON object.
    """
    try:
        values = json.loads(read_bytes(file, most, advice))
    except (ValueError, RecursionError) as error:
        raise NewsloraError(f"{file}: is not readable as JSON; {advice}") from error
    if not isinstance(values, dict):
        raise NewsloraError(f"{file}: holds no JSON object; {advice}")
    return values


def _read_plain(file: Path, most: int) -> bytes | None:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(most)
    finally:
        os.close(descriptor)


def _commit(staged: Path, path: Path) -> None:
    if staged.is_dir():
        for file in staged.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _sync(file)
        _swap_folder(staged, path)
    else:
        _sync(staged)
        staged.replace(path)
    _sync(path.parent)


def _swap_folder(staged: Path, path: Path) -> None:
    # A folder cannot be renamed over another: the old one steps aside first and is deleted last.
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    _remove(old)
    if path.exists():
        path.rename(old)
    try:
        staged.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
