"""Arrays kept on disk by the digest of what they were made from; believed only when their checksum holds."""

import logging
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from newslora.errors import NewsloraError
from newslora.files import writing

Arrays = dict[str, NDArray[Any]]
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return where encoded articles are kept: ``$NEWSLORA_CACHE``, or ``~/.cache/newslora``."""
    given = os.environ.get("NEWSLORA_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "newslora"


def cached(key: str | None, articles: int, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays stored under ``key``, or make and store them.

    A file that is cut, altered or made from other content is made anew. A cache that cannot be written is no reason to
    stop; it is logged.

    Args:
        key: Digest of the content; ``None`` goes without the cache.
        articles: Articles that the arrays must be about.
        make: Gives ``ids`` int32 [tokens], ``offsets`` int64 [articles + 1] and ``counts`` int64 [articles].
    """
    if key is None:
        return make()
    path = cache_folder() / f"encoded-{key}.safetensors"
    arrays = _load(path, key, articles)
    if arrays is None:
        arrays = make()
        _store(path, key, arrays)
    return arrays


def _store(path: Path, key: str, arrays: Arrays) -> None:
    try:
        with writing(path) as staged:
            save_file(arrays, staged, metadata={"key": key, "checksum": _checksum(key, arrays)})
    except (NewsloraError, SafetensorError) as error:
        _log.info("encoded articles are not kept: %s", error)


def _load(path: Path, key: str, articles: int) -> Arrays | None:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in ("ids", "offsets", "counts")}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None  # missing, cut or not such a file: it is made anew
    sound = metadata.get("checksum") == _checksum(key, arrays) and _fits(arrays, articles)
    return arrays if sound else None


def _checksum(key: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = sha256(key.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _fits(arrays: Arrays, articles: int) -> bool:
    ids, offsets, counts = arrays["ids"], arrays["offsets"], arrays["counts"]
    kinds = [array.dtype.name for array in (ids, offsets, counts)] == ["int32", "int64", "int64"]
    return bool(
        kinds and len(offsets) == articles + 1 == len(counts) + 1 and offsets[0] == 0 and offsets[-1] == len(ids)
    )
