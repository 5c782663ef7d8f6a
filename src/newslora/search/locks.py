"""Locks that the system lets go of when their process ends, however it ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from newslora.errors import NewsloraError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock on the file ``path``, made if missing, and hold it during the block.

    Raises:
        NewsloraError: The file cannot be written.
    """
    with _opened(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> IO[bytes] | None:
    """Take the lock on the file ``path`` unless another process has it; closing what is returned gives it back.

    Raises:
        NewsloraError: The file cannot be written.
    """
    file = _opened(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _opened(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise NewsloraError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
