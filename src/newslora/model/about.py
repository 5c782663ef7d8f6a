"""What an adapter folder says beside peft's own files: which backbone, which labels, how many tokens."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newslora.errors import NewsloraError
from newslora.files import write_text

_FILE = "newslora.json"


@dataclass(frozen=True)
class About:
    """What a model needs to know of itself when it is loaded.

    Attributes:
        identity: The backbone's, as :func:`newslora.model.backbone.identity` gave it when the adapter was trained.
        names: Label names, in the order of the logits.
        max_length: Tokens kept of an article, special tokens included.
    """

    identity: dict[str, str | None]
    names: tuple[str, ...]
    max_length: int


def write_about(folder: Path, identity: dict[str, str | None], max_length: int) -> None:
    """Write what ``config.json`` does not hold: the backbone's identity and the number of tokens."""
    write_text(folder / _FILE, json.dumps(identity | {"max_length": max_length}, indent=2) + "\n")


def read_about(folder: Path) -> About:
    """Read an adapter folder's own files, the labels from its ``config.json``.

    Raises:
        NewsloraError: A file is missing or damaged.
    """
    identity = _read_json(folder / _FILE)
    max_length = identity.pop("max_length", None)
    if not isinstance(max_length, int):
        raise NewsloraError(f"{folder / _FILE}: max_length is {max_length!r}, not a number of tokens")
    return About(identity, _read_names(folder / "config.json"), max_length)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NewsloraError(f"{file}: cannot be read ({error}); give the adapter folder of a run") from error
    if not isinstance(values, dict):
        raise NewsloraError(f"{file}: holds no JSON object; give the adapter folder of a run")
    return values


def _read_names(file: Path) -> tuple[str, ...]:
    labels = _read_json(file).get("id2label")
    indices: Iterable[str] = labels if isinstance(labels, dict) else ()
    if not labels or sorted(indices, key=str) != sorted((str(i) for i in range(len(labels))), key=str):
        raise NewsloraError(f"{file}: id2label does not name labels 0, 1, …; give the adapter folder of a run")
    return tuple(str(labels[str(i)]) for i in range(len(labels)))
