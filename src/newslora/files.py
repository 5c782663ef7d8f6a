"""Writing files so that a reader sees the old content or the new, never half of either."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
