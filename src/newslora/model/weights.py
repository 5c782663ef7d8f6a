"""A backbone's weights on disk: which files they are, and the digest that tells one backbone from another."""

import hashlib
from pathlib import Path

from newslora.errors import NewsloraError
from newslora.files import read_json

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_MOST = 1 << 26  # bytes of an index: a thousand times a large encoder's
_ADVICE = "download the backbone again"


def sha256(file: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_digest(folder: Path) -> str | None:
    """Return the digest of a backbone's weights, None where it has none in safetensors.

    For one file it is its SHA-256; for a checkpoint in several, the SHA-256 over their names and theirs.

    Raises:
        NewsloraError: The index is damaged or names a file outside the folder.
    """
    if (folder / WEIGHTS).is_file():
        return sha256(folder / WEIGHTS)
    lines = [f"{name} {sha256(folder / name)}\n" for name in shards(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def shards(folder: Path) -> list[str]:
    """Return the names of the files that a checkpoint's index, if it has one, is made of.

    Raises:
        NewsloraError: The index is damaged, or names what is not a safetensors file in the folder itself: the libraries
            would open whatever path stands there.
    """
    file = folder / INDEX
    if not file.exists():
        return []
    # Resolved: in the hub's cache every file is a link to its content.
    names = read_json(file.resolve(), _MOST, _ADVICE).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise NewsloraError(f"{file}: maps no tensors to files; {_ADVICE}")
    for name in set(names.values()):
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise NewsloraError(f"{file}: names {name!r}, which is no safetensors file beside it; {_ADVICE}")
    return sorted(set(names.values()))
