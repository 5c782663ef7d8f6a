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
from collections.abc import Callable, Iterable, Iterator, Sequence
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

    Attributes:
        folder: As given.
        done: The parts that stand without a gap from the first.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self._target = folder, target
        found = find_parts(folder.iterdir())
        # A process killed while it removed the parts leaves gaps; what stands after one is made again.
        self.done: list[Part] = [found[number] for number in takewhile(found.__contains__, count())]

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
        if schema is None and self.done:
            schema = schema_of(self.done[0].path)
        self.done.append(write_part(self.folder, self._target, len(self.done), rows, skipped, columns, schema))

    def numbers(self) -> set[int]:
        """Return the places of the parts that are there, gaps or not."""
        return set(find_parts(self.folder.iterdir()))

    def gather(self, count: int) -> None:
        """Take up the first ``count`` parts as other processes wrote them.

        Raises:
            NewsloraError: One is missing: those processes write to another disk.
        """
        found = find_parts(self.folder.iterdir())
        if missing := set(range(count)) - found.keys():
            raise NewsloraError(
                f"{self._target}: part {min(missing)} is not in {self.folder}; all machines must share this disk"
            ) from FileNotFoundError()
        self.done = [found[number] for number in range(count)]

    def finish(self) -> None:
        """Join the parts to the table and remove them.

        Raises:
            NewsloraError: A full disk, or the place cannot be written to.
        """
        joined = self.folder / f"joined{_suffix(self._target)}"
        with writing(joined) as staged:
            join([part.path for part in self.done], staged)
        with _telling(self._target):
            joined.replace(self._target)
        self.remove()

    def remove(self) -> None:
        """Remove the parts with their folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_part(
    folder: Path,
    target: Path,
    number: int,
    rows: Sequence[dict[str, Any]],
    skipped: int,
    columns: Sequence[str],
    schema: pa.Schema | None = None,
) -> Part:
    """Write one part, whichever process has its rows; the same part written twice is there once.

    Args:
        folder: Where the parts stand.
        target: The table to be.
        number: The part's place, from 0; the first has the header.
        rows: Its rows.
        skipped: Rows that were left out among them.
        columns: Column names, in order.
        schema: Types for Parquet; found from the rows when not given.

    Raises:
        NewsloraError: A full disk, or rows that do not fit the table.
    """
    path = folder / f"part-{number:06}-{len(rows)}-{skipped}{_suffix(target)}"
    with open_sink(str(path), columns, schema, header=number == 0, named=target) as write:
        write(rows)
    return Part(path, len(rows), skipped)


def find_parts(files: Iterable[Path]) -> dict[int, Part]:
    """Return the finished parts among files, by their places."""
    named = ((path, _NAME.match(path.name)) for path in files)
    return {int(name[1]): Part(path, int(name[2]), int(name[3])) for path, name in named if name}


def _suffix(target: Path) -> str:
    return "".join(target.suffixes[-2:]) if target.suffix == ".gz" else target.suffix


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
