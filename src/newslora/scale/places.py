"""Places of tables: files here, or addresses such as ``s3://bucket/news.parquet`` that fsspec opens."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from newslora.data.frame import reason
from newslora.data.stream import STANDARD, kind_of
from newslora.errors import NewsloraError

_WILD = frozenset("*?[")


def is_address(place: str) -> bool:
    """Whether a place is an address for fsspec and not a path."""
    return "://" in place


def find_tables(source: str) -> tuple[list[str], bool]:
    """Return the tables that a source names, in order, and whether it may name several.

    Args:
        source: A file; a folder of tables; or a pattern with ``*``. Paths or addresses.

    Raises:
        NewsloraError: There is none, or it is standard input.
    """
    if source == STANDARD:
        raise NewsloraError("--input -: standard input cannot be shared out; give a file")
    found = _remote_tables(source) if is_address(source) else _local_tables(source)
    if found is not None:
        if not found:
            raise NewsloraError(f"{source}: names no table")
        return sorted(found), True
    kind_of(source)
    return [source], False


def name_targets(sources: list[str], several: bool, output: str) -> list[str]:
    """Return where each table's answers go: the output itself, or files of the tables' names in that folder.

    Raises:
        NewsloraError: Two tables have one name, or standard output is asked for.
    """
    if output == STANDARD:
        raise NewsloraError("--output -: give a file's name; parts of it are written on the way")
    if not several:
        return [output]
    names = [PurePosixPath(source).name for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise NewsloraError(f"{output}: two tables are named {twice[0]}; classify them into folders of their own")
    return [f"{output.rstrip('/')}/{name}" for name in names]


def describe(source: str) -> dict[str, Any]:
    """Return what tells an address's content from another's.

    Raises:
        NewsloraError: There is no such file.
    """
    with reaching(source):
        system, path = url_to_fs(source)
        return {"source": source, "version": str(system.ukey(path))}


@contextmanager
def fetched(source: str) -> Iterator[str]:
    """Yield a local file with a table's content: itself, or a copy for as long as the block lasts."""
    if not is_address(source):
        yield source
        return
    with TemporaryDirectory(prefix="newslora-") as folder:
        copy = Path(folder) / PurePosixPath(source).name
        with reaching(source):
            system, path = url_to_fs(source)
            system.get_file(path, str(copy))
        yield str(copy)


def send(file: Path, address: str) -> None:
    """Copy a file to an address, where it appears when it is whole.

    Raises:
        NewsloraError: It cannot be written.
    """
    with reaching(address):
        system, path = url_to_fs(address)
        staged = f"{path}.{file.stat().st_mtime_ns}.tmp"
        system.makedirs(system._parent(path), exist_ok=True)
        system.put_file(str(file), staged)
        system.mv(staged, path)


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """Turn what can go wrong at an address into one line.

    Raises:
        NewsloraError: It cannot be reached, or its kind of store is not installed or not known.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise NewsloraError(f"{place}: no such file") from error
    except (OSError, ValueError, ImportError) as error:
        raise NewsloraError(f"{place}: cannot be reached ({reason(error)})") from error


def _local_tables(source: str) -> list[str] | None:
    if Path(source).is_dir():
        return [str(file) for file in Path(source).iterdir() if file.is_file() and _is_table(file.name)]
    if Path(source).is_file():
        return None
    if _WILD.isdisjoint(source):
        raise NewsloraError(f"{source}: no such file")
    return glob.glob(source)  # noqa: PTH207 - a pattern as a shell has it, absolute ones too


def _remote_tables(source: str) -> list[str] | None:
    with reaching(source):
        system, path = url_to_fs(source)
        if not _WILD.isdisjoint(source):
            return _addresses(system, system.glob(path))
        if system.isdir(path):
            inside = (name for name in system.ls(path, detail=False) if system.isfile(name))
            return _addresses(system, [name for name in inside if _is_table(PurePosixPath(name).name)])
        system.info(path)
    return None


def _addresses(system: AbstractFileSystem, paths: list[str]) -> list[str]:
    return [system.unstrip_protocol(path) for path in paths]


def _is_table(name: str) -> bool:
    try:
        return not name.startswith(".") and bool(kind_of(name))
    except NewsloraError:
        return False
