"""Each adapted module's own rank and alpha, as the settings' patterns say."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import nn

from newslora.config import LoraConfig
from newslora.errors import NewsloraError
from newslora.model.families import Family, expand_targets, linear_modules
from newslora.values import Layers

Number = TypeVar("Number")
_ADVICE = "write a target (value), layers (0-2), or both (5.query)"


@dataclass(frozen=True)
class Rank:
    """A module's update.

    Attributes:
        r: Its rank.
        alpha: Its scaling numerator, as in the settings.
        scale: The factor on the update.
    """

    r: int
    alpha: float
    scale: float


def scale_of(scaling: str, r: int, alpha: float) -> float:
    """Return the factor on an update of rank ``r``: alpha/r, alpha/sqrt(r) for ``rslora``, alpha for ``alpha``."""
    return {"alpha/r": alpha / r, "rslora": alpha / math.sqrt(r), "alpha": alpha}[scaling]


def module_ranks(model: nn.Module, family: Family, lora: LoraConfig) -> dict[str, Rank]:
    """Return the modules that LoRA adapts, by their full names, each with its rank and alpha.

    Args:
        model: The classification model, on any device (meta too).
        family: Its family.
        lora: The settings.

    Raises:
        NewsloraError: A target or a layer that does not exist, or a pattern that matches no adapted module.
    """
    modules = linear_modules(model, family, lora.targets, lora.layers)
    ranks = _matched(modules, family, lora.ranks, "lora.ranks")
    alphas = _matched(modules, family, lora.alphas, "lora.alphas")
    pairs = {name: (ranks.get(name, lora.r), alphas.get(name, lora.alpha)) for name in modules}
    return {name: Rank(r, alpha, scale_of(lora.scaling, r, alpha)) for name, (r, alpha) in pairs.items()}


def _matched(modules: Iterable[str], family: Family, patterns: Mapping[str, Number], setting: str) -> dict[str, Number]:
    """Return each module's value by the last pattern that matches it; nothing for modules that none matches."""
    found: dict[str, Number] = {}
    for pattern, value in patterns.items():
        hits = [name for name in modules if _matches(name, family, pattern, setting)]
        if not hits:
            raise NewsloraError(f"{setting}: {pattern!r} matches no module that LoRA adapts; {_ADVICE}")
        found |= dict.fromkeys(hits, value)
    return found


def _matches(module: str, family: Family, pattern: str, setting: str) -> bool:
    layers, targets = _parse(pattern, setting)
    number, _, path = module.removeprefix(f"{family.layers}.").partition(".")
    return (layers is None or int(number) in layers) and path in {family.modules[target] for target in targets}


def _parse(pattern: str, setting: str) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    first, _, rest = pattern.partition(".")
    numbered = first[:1].isdecimal()
    try:
        layers = TypeAdapter(Layers).validate_python(first) if numbered else None
        return layers, expand_targets([rest or "all-linear"] if numbered else [pattern])
    except (ValidationError, NewsloraError) as error:
        raise NewsloraError(f"{setting}: {pattern!r} names neither targets nor layers; {_ADVICE}") from error
