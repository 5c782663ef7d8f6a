"""What an adapter folder says beside peft's own files: which backbone, which labels, how many tokens."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from newslora.errors import NewsloraError
from newslora.files import read_json, write_text

MULTI_LABEL: Final = "multi_label_classification"  # transformers' problem_type
_FILE = "newslora.json"
_MOST = 1 << 24  # bytes
_ADVICE = "give the adapter folder of a run"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


@dataclass(frozen=True)
class About:
    """What a model needs to know of itself when it is loaded.

    Attributes:
        identity: The backbone's, as :func:`newslora.model.backbone.identity` gave it when the adapter was trained.
        names: Label names, in the order of the logits.
        max_length: Tokens kept of an article, special tokens included.
        multi_label: Whether an article may carry several labels, each with a probability of its own.
    """

    identity: dict[str, str | None]
    names: tuple[str, ...]
    max_length: int
    multi_label: bool = False

    @property
    def layers(self) -> tuple[int, ...] | None:
        """Layers of the backbone that are kept, or None for all."""
        text = self.identity.get("layers")
        return None if text is None else tuple(int(layer) for layer in text.split(","))

    @property
    def quantization(self) -> Literal["none", "int8", "nf4"]:
        """How the backbone's linear weights are kept."""
        return cast(Literal["none", "int8", "nf4"], self.identity.get("quantization") or "none")


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    backbone: Annotated[str, Field(max_length=4096)]
    revision: Annotated[str, Field(pattern=r"^[\w./-]+$", max_length=255)] | None
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")] | None
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")] | None
    max_length: Annotated[int, Field(ge=1, le=1 << 20)]
    layers: Annotated[str, Field(pattern=r"^[0-9,]{1,4000}$")] | None = None
    quantization: Literal["int8", "nf4"] | None = None


def write_about(folder: Path, identity: dict[str, str | None], max_length: int) -> None:
    """Write what ``config.json`` does not hold: the backbone's identity and the number of tokens."""
    write_text(folder / _FILE, json.dumps(identity | {"max_length": max_length}, indent=2) + "\n")


def read_about(folder: Path) -> About:
    """Read an adapter folder's own files, the labels from its ``config.json``.

    Raises:
        NewsloraError: A file is missing or damaged, or says what newslora would not have written.
    """
    file = folder / _FILE
    try:
        stored = _Stored.model_validate(read_json(file, _MOST, _ADVICE))
    except ValidationError as error:
        problem = error.errors()[0]
        name, value = ".".join(map(str, problem["loc"])), str(problem["input"])[:60]
        raise NewsloraError(f"{file}: {name} is {value!r}: {problem['msg']}; {_ADVICE}") from error
    _check_place(file, stored.backbone)
    unsaid = {name for name in ("layers", "quantization") if getattr(stored, name) is None}
    identity = stored.model_dump(exclude={"max_length"} | unsaid)
    labels = folder / "config.json"
    values = read_json(labels, _MOST, _ADVICE)
    several = values.get("problem_type") == MULTI_LABEL
    return About(identity, _read_names(labels, values), stored.max_length, several)


def _check_place(file: Path, backbone: str) -> None:
    # An id or alias, or the whole path of the folder that was trained on: nothing that leads on from another place.
    path = Path(backbone)
    if not _HUB_ID.fullmatch(backbone) and not (path.is_absolute() and ".." not in path.parts and "\0" not in backbone):
        raise NewsloraError(f"{file}: backbone {backbone[:60]!r} is neither a hub id nor a whole path; {_ADVICE}")


def _read_names(file: Path, values: dict[str, Any]) -> tuple[str, ...]:
    labels = values.get("id2label")
    if not isinstance(labels, dict) or not labels or set(labels) != {str(i) for i in range(len(labels))}:
        raise NewsloraError(f"{file}: id2label does not name labels 0, 1, …; {_ADVICE}")
    names = tuple(labels[str(i)] for i in range(len(labels)))
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise NewsloraError(f"{file}: id2label holds two equal names, or one that is no text; {_ADVICE}")
    _check_order(file, values.get("label2id"), names)
    return names


def _check_order(file: Path, numbers: object, names: tuple[str, ...]) -> None:
    if numbers != {name: i for i, name in enumerate(names)}:
        raise NewsloraError(f"{file}: id2label and label2id order the labels differently; {_ADVICE}")
