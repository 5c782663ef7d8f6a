"""An adapter folder's seal: the size and SHA-256 of each of its files, in ``checksums.json``.

The libraries believe whatever parses: a bit that flips inside a tensor, or a file that comes from another run, gives
other answers and no error. The seal finds accidents. It is no signature: who means harm can write a new one, so what is
read is also held against what newslora itself would have written.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from newslora.errors import NewsloraError
from newslora.files import read_bytes, write_text
from newslora.model.weights import sha256

FILE_NAME = "checksums.json"
ADVICE = "use the run it came from"
_UNREAD = frozenset({FILE_NAME, "README.md", "LICENSE"})  # for people; no program here reads them
_MOST = {".safetensors": 1 << 33, ".onnx": 1 << 31}  # bytes; a merged export holds the whole backbone
_MOST_ELSE = 1 << 26  # a tokenizer of 250,000 words takes 17 MB
_PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Seal(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    version: Literal[1] = 1
    files: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=100)], _File]


def seal(folder: Path) -> None:
    """Write the seal over all files that stand in an adapter folder."""
    files = {file.name: _measure(file) for file in sorted(_members(folder)) if file.is_file()}
    _write(folder, _Seal(files=files))


def seal_file(folder: Path, name: str) -> None:
    """Enter a file that was added or replaced later; what stands of the others stays."""
    files = _read(folder).files if (folder / FILE_NAME).exists() else {}
    _write(folder, _Seal(files=dict(sorted((files | {name: _measure(folder / name)}).items()))))


def check_seal(folder: Path) -> None:
    """Hold an adapter folder against its seal.

    Raises:
        NewsloraError: A file is missing, altered, too large, a link or a folder, or is not in the seal; names it.
    """
    if folder.is_symlink():
        raise NewsloraError(f"{folder}: is a link; give the folder that it leads to")
    sealed = _read(folder).files
    for entry in sorted(_members(folder)):
        if entry.suffix in _PICKLES:
            raise NewsloraError(f"{entry}: may be a pickle, which can run code; only safetensors are read, remove it")
        if entry.name not in sealed:
            raise NewsloraError(f"{entry}: is not among the files that {FILE_NAME} names; remove it")
    for name, expected in sealed.items():
        _check_file(folder / name, expected)


def _members(folder: Path) -> list[Path]:
    # What is hidden is the system's or a killed process's, and read by no one.
    return [entry for entry in folder.iterdir() if entry.name not in _UNREAD and not entry.name.startswith(".")]


def _check_file(file: Path, expected: _File) -> None:
    if file.is_symlink() or not file.is_file():
        reason = "is a link" if file.is_symlink() else "is missing"
        raise NewsloraError(f"{file}: {reason}; {ADVICE}")
    size, most = file.stat().st_size, _MOST.get(file.suffix, _MOST_ELSE)
    if size > most:
        raise NewsloraError(f"{file}: is larger than the {most:,} bytes that such a file may have; {ADVICE}")
    if size != expected.bytes or sha256(file) != expected.sha256:
        raise NewsloraError(f"{file}: does not match its checksum in {FILE_NAME}; {ADVICE}")


def _measure(file: Path) -> _File:
    return _File(bytes=file.stat().st_size, sha256=sha256(file))


def _write(folder: Path, content: _Seal) -> None:
    write_text(folder / FILE_NAME, content.model_dump_json(indent=2) + "\n")


def _read(folder: Path) -> _Seal:
    file = folder / FILE_NAME
    advice = f"{ADVICE}, or, if you trust the folder, write them by newslora.model.seal.seal"
    try:
        return _Seal.model_validate_json(read_bytes(file, 1 << 20, advice))
    except ValidationError as error:
        raise NewsloraError(f"{file}: holds no checksums; {advice}") from error
