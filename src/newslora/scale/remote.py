"""Parts of a table at an address: written by whichever machine has the rows, joined when all are there."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from fsspec.core import url_to_fs

from newslora.data.parts import Part, find_parts
from newslora.data.sinks import check_target, join
from newslora.errors import NewsloraError
from newslora.scale.places import reaching, send

_JOB = "job.json"


class RemoteParts:
    """The parts of one table at an address; :class:`newslora.data.parts.Parts` is its like on a disk.

    Args:
        target: The address of the table to be.

    Attributes:
        folder: Where they stand.
        done: The parts that the table is joined from, once they are gathered.
    """

    def __init__(self, target: str) -> None:
        self.target, name = target, PurePosixPath(target).name
        self.folder = f"{target.removesuffix(name)}.{name}.parts"
        self._system, self._path = url_to_fs(self.folder)
        self.done: list[Part] = []

    def claim(self, job: dict[str, Any], note: Callable[[str], None]) -> None:
        """Make the parts this job's: those of another are removed."""
        text = json.dumps(job, sort_keys=True)
        file = f"{self._path}/{_JOB}"
        if self._system.exists(file):
            if self._system.cat_file(file).decode() == text:
                return
            note(f"{self.target}: its unfinished rows were made from another input, model or setting; starting anew")
        self.remove()
        with TemporaryDirectory(prefix="newslora-") as folder:
            (Path(folder) / _JOB).write_text(text, encoding="utf-8")
            send(Path(folder) / _JOB, f"{self.folder}/{_JOB}")

    def numbers(self) -> set[int]:
        """Return the places of the parts that are there."""
        return set(self._found())

    def gather(self, count: int) -> None:
        """Take up the first ``count`` parts.

        Raises:
            NewsloraError: One is missing.
        """
        found = self._found()
        if missing := set(range(count)) - found.keys():
            raise NewsloraError(f"{self.target}: part {min(missing)} is not in {self.folder}") from FileNotFoundError()
        self.done = [found[number] for number in range(count)]

    def finish(self) -> None:
        """Join the parts to the table and remove them."""
        with TemporaryDirectory(prefix="newslora-") as folder:
            copies = [Path(folder) / part.path.name for part in self.done]
            for copy in copies:
                self._system.get_file(f"{self._path}/{copy.name}", str(copy))
            joined = Path(folder) / "joined"
            join(copies, joined)
            send(joined, self.target)
        self.remove()

    def remove(self) -> None:
        """Remove the parts with their folder."""
        if self._system.exists(self._path):
            self._system.rm(self._path, recursive=True)

    def _found(self) -> dict[int, Part]:
        self._system.invalidate_cache()
        names = (PurePosixPath(path).name for path in self._system.ls(self._path, detail=False))
        return find_parts(Path(name) for name in names)


@contextmanager
def open_remote_parts(target: str, job: dict[str, Any], note: Callable[[str], None]) -> Iterator[RemoteParts]:
    """Open the parts of a table at an address, as :func:`newslora.data.parts.open_parts` does on a disk.

    Nothing keeps two jobs from the same target: stores have no locks.

    Raises:
        NewsloraError: An unknown ending, or the place cannot be written to.
    """
    check_target(Path(PurePosixPath(target).name))
    with reaching(target):
        parts = RemoteParts(target)
        parts.claim(job, note)
    try:
        yield parts
        with reaching(target):
            parts.finish()
    except NewsloraError as error:
        if not isinstance(error.__cause__, OSError):
            parts.remove()
        raise
