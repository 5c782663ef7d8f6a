"""Students: smaller models that learn from a run, each a run folder like any other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from newslora.config import RunConfig, change
from newslora.errors import NewsloraError
from newslora.model.backbone import load_config
from newslora.model.shorten import even_layers
from newslora.training.run_folder import RunFolder
from newslora.values import parse_value


def student_config(
    teacher: Path,
    *,
    layers: int | None = None,
    backbone: str | None = None,
    unlabelled: str | None = None,
    overrides: Mapping[str, str] | None = None,
) -> RunConfig:
    """Return the settings of a student: the teacher's own but for a smaller backbone, and what it learns from.

    Args:
        teacher: A trained run's folder.
        layers: Keep so many of the teacher's layers, evenly spaced.
        backbone: Another backbone, instead.
        unlabelled: Table of further texts that the teacher labels.
        overrides: Dotted names with their values as text.

    Raises:
        NewsloraError: No such run, both or neither of ``layers`` and ``backbone``, or a value out of its range.
    """
    if (layers is None) == (backbone is None):
        raise NewsloraError("newslora distill: give either --layers N or --backbone M")
    config = RunFolder.open(teacher).config()
    changes: dict[str, Any] = {"distill.teacher": str(teacher), "distill.unlabelled": unlabelled}
    changes |= _shorter(config, layers) if layers is not None else _other(str(backbone))
    # What is said of single layers holds for the teacher's.
    changes["lora.layers"] = None
    for name in ("ranks", "alphas"):
        patterns: dict[str, Any] = getattr(config.lora, name)
        changes[f"lora.{name}"] = {key: value for key, value in patterns.items() if not key[:1].isdecimal()}
    given = {name: parse_value(text) for name, text in (overrides or {}).items()}
    return change(config, changes | given, "newslora distill")


def _shorter(config: RunConfig, layers: int) -> dict[str, Any]:
    model = config.model
    own = model.layers or tuple(range(load_config(model.backbone, model.revision).num_hidden_layers))
    return {"model.layers": tuple(own[layer] for layer in even_layers(len(own), layers))}


def _other(backbone: str) -> dict[str, Any]:
    return {"model.backbone": backbone, "model.revision": None, "model.layers": None}
