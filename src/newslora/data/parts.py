"""A table written in parts, so that work that is killed goes on after its last whole part.

The parts stand in a hidden folder beside the table to be, each made complete by a rename, its numbers of rows in its
name. Beside them ``job.json`` says what they were made from: parts of another job are never taken up. When all are
there they are joined in the folder and the result renamed, so at any moment the table is the old one or the new.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from newslora.data.sinks import check_target, join, open_sink, schema_of
from newslora.errors import NewsloraError
from newslora.files import write_text, writing

_NAME: Final = re.compile(r"part-(\d{6,})-(\d+)-(\d+)\.")
_JOB: Final = "job.json"
_LOCK: Final = "lock"


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
        path: Its file.
        written: Rows in it.
        skipped: Rows that were left out.
    """

    path: Path
    written: int
    skipped: int


class Parts:
    """The parts of one table.

    Args:
        folder: Where they stand; it exists.
        target: The table to be.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder, self._target = folder, target
        self._suffix = "".join(target.suffixes[-2:]) if target.suffix == ".gz" else target.suffix
        self.done: list[Part] = self._found()

    def write(
        self, rows: Sequence[dict[str, Any]], skipped: int, columns: Sequence[str], schema: pa.Schema | None = None
    ) -> None:
        """Write the next part.

        Args:
            rows: Its rows.
            skipped: Rows that were left out among them.
            columns: Column names, in order.
            schema: Types for Parquet; those of the first part when not given.

        Raises:
            NewsloraError: A full disk, or rows that do not fit the table.
        """
        name = f"part-{len(self.done):06}-{len(rows)}-{skipped}{self._suffix}"
        if schema is None and self.done:
            schema = schema_of(self.done[0].path)
        with open_sink(str(self._folder / name), columns, schema, header=not self.done, named=self._target) as write:
            write(rows)
        self.done.append(Part(self._folder / name, len(rows), skipped))

    def finish(self) -> None:
        """Join the parts to the table and remove them.

        Raises:
            NewsloraError: A full disk, or the place cannot be written to.
        """
        joined = self._folder / f"joined{self._suffix}"
        with writing(joined) as staged:
            join([part.path for part in self.done], staged)
        with _telling(self._target):
            joined.replace(self._target)
        self.remove()

    def remove(self) -> None:
        """Remove the parts with their folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _found(self) -> list[Part]:
        found = {}
        for path in self._folder.iterdir():
            if name := _NAME.match(path.name):
                found[int(name[1])] = Part(path, int(name[2]), int(name[3]))
        # A process killed while it removed the parts leaves gaps; what stands after one is made again.
        return [found[number] for number in takewhile(found.__contains__, count())]


@contextmanager
def open_parts(target: Path, job: dict[str, Any], note: Callable[[str], None]) -> Iterator[Parts]:
    """Open the parts of a table, those of an earlier, killed process of the same job included.

    When the block ends without an error the table is joined. When the input is at fault the parts are removed; after
    an interruption, a kill or a full disk they stay, and the same job goes on with them.

    Args:
        target: The table to be; its ending says its kind.
        job: All that decides the parts' content, as JSON can hold it.
        note: Told, in a line, of parts that were found and what becomes of them.

    Yields:
        The parts; ``done`` holds those that need not be written again.

    Raises:
        NewsloraError: An unknown ending, a full disk, a place that cannot be written to, or another process at work
            on the same table.
    """
    check_target(target)
    folder = target.with_name(f".{target.name}.parts")
    with _telling(target):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, target):
        _claim(folder, target, job, note)
        parts = Parts(folder, target)
        if parts.done:
            note(f"going on after {sum(p.written + p.skipped for p in parts.done):,} rows of an earlier start")
        try:
            yield parts
            parts.finish()
        except NewsloraError as error:
            if not isinstance(error.__cause__, OSError):
                parts.remove()
            raise


def _claim(folder: Path, target: Path, job: dict[str, Any], note: Callable[[str], None]) -> None:
    """Make the folder this job's: parts of another are removed."""
    text = json.dumps(job, indent=2, sort_keys=True) + "\n"
    file = folder / _JOB
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    if file.exists():
        note(f"{target}: its unfinished rows were made from another input, model or setting; starting anew")
    for path in folder.iterdir():
        if path.name != _LOCK:
            path.unlink()
    write_text(file, text)


@contextmanager
def _locked(folder: Path, target: Path) -> Iterator[None]:
    with _telling(target):
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise NewsloraError(
            f"{target}: another process is writing it; wait for it or choose another --output"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _telling(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NewsloraError(
            f"{target}: cannot be written ({error.strerror or error}); free some space or choose another place"
        ) from error
