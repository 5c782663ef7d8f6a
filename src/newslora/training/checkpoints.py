"""Checkpoint folders: complete or not there, checked byte for byte when read.

A checkpoint is a folder of files and a ``manifest.json``, written last, with every file's SHA-256. A new one is staged
beside ``last``, which then steps back to ``previous`` before the new one takes its name: at every instant at least one
complete checkpoint stands.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from newslora.errors import NewsloraError
from newslora.files import read_bytes, writing

MANIFEST = "manifest.json"
_MOST = 1 << 32  # bytes of a file; trained are a million numbers, and twice as many moments
_DAMAGED = "the checkpoint is damaged"


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    version: Literal[1] = 1
    step: int
    files: dict[str, str]


@dataclass(frozen=True)
class Found:
    """The newest complete checkpoint.

    Attributes:
        path: Its folder.
        files: Content of its files by name, already checked.
        damaged: Checkpoints passed over because they are incomplete or altered.
    """

    path: Path
    files: dict[str, bytes]
    damaged: tuple[Path, ...]


def write_checkpoint(checkpoints: Path, files: Mapping[str, bytes], step: int) -> Path:
    """Write ``last`` and keep the one it follows as ``previous``.

    Raises:
        NewsloraError: The disk is full or cannot be written to; ``last`` is then what it was.
    """
    last = checkpoints / "last"
    with writing(last) as staged:
        _write_files(staged, files, step)
        _step_back(last)
    return last


def write_best(checkpoints: Path, files: Mapping[str, bytes], step: int) -> None:
    """Write ``best``, replacing an earlier one.

    Raises:
        NewsloraError: The disk is full or cannot be written to.
    """
    with writing(checkpoints / "best") as staged:
        _write_files(staged, files, step)


def find_checkpoint(checkpoints: Path) -> Found | None:
    """Return the newest complete checkpoint, or None if training was stopped before the first one.

    What a killed process left under a temporary name counts when it is complete and is ignored when it is not.

    Raises:
        NewsloraError: There are checkpoints, and every one is incomplete or altered.
    """
    good: list[tuple[int, Path, dict[str, bytes]]] = []
    damaged: dict[Path, str] = {}
    for folder in _candidates(checkpoints):
        try:
            good.append((_read_step(folder), folder, read_checkpoint(folder)))
        except NewsloraError as error:
            damaged[folder] = str(error)
    lost = {path: reason for path, reason in damaged.items() if not path.name.startswith(".")}
    if not good and lost:
        raise NewsloraError(
            f"{next(iter(lost.values()))}; no other checkpoint is left, train anew with another --output"
        )
    if not good:
        return None
    _, path, files = max(good, key=lambda item: item[0])
    return Found(path, files, tuple(lost))


def read_checkpoint(folder: Path) -> dict[str, bytes]:
    """Return the content of a checkpoint's files by name.

    Raises:
        NewsloraError: The checkpoint is incomplete or altered.
    """
    files: dict[str, bytes] = {}
    for name, digest in _read_manifest(folder).files.items():
        if name != Path(name).name:
            raise NewsloraError(f"{folder}: damaged checkpoint, {MANIFEST} names {name!r} outside it")
        files[name] = read_bytes(folder / name, _MOST, _DAMAGED)
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise NewsloraError(f"{folder}: damaged checkpoint, {name} does not match its checksum")
    return files


def clear_staged(folder: Path) -> None:
    """Remove what a killed process left in ``folder`` under a temporary name."""
    for pattern in (".*.tmp", ".*.old"):
        for leftover in folder.glob(pattern):
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()


def _write_files(folder: Path, files: Mapping[str, bytes], step: int) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (folder / MANIFEST).write_text(_Manifest(step=step, files=digests).model_dump_json(indent=2), encoding="utf-8")


def _step_back(last: Path) -> None:
    previous = last.with_name("previous")
    if last.exists():
        if previous.exists():
            shutil.rmtree(previous)
        last.rename(previous)


def _candidates(checkpoints: Path) -> list[Path]:
    names = ("last", "previous")
    folders = sorted(checkpoints.iterdir()) if checkpoints.is_dir() else []
    return [f for f in folders if f.is_dir() and (f.name in names or f.name.startswith(".last."))]


def _read_step(folder: Path) -> int:
    return _read_manifest(folder).step


def _read_manifest(folder: Path) -> _Manifest:
    try:
        return _Manifest.model_validate_json(read_bytes(folder / MANIFEST, 1 << 20, _DAMAGED))
    except ValidationError as error:
        raise NewsloraError(f"{folder}: damaged checkpoint, {MANIFEST} is not what was written") from error
