"""The parameter budget: counted on the built model, planned from a configuration alone."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import peft
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

from newslora.config import LoraConfig, ModelConfig
from newslora.errors import NewsloraError
from newslora.model.families import Family, expand_targets, family_of, linear_modules
from newslora.model.quantized import hidden_parameters
from newslora.model.ranks import module_ranks

HEADS = ("linear", "lora", "full")
RANKS = (1, 2, 4, 8, 16, 32, 64)
TARGET_SETS = (("query",), ("query", "value"), ("attention",), ("intermediate", "output"), ("all-linear",))


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters."""

    trainable: int
    total: int


@dataclass(frozen=True)
class Plan:
    """One LoRA configuration with what it costs.

    Attributes:
        targets: LoRA targets as in the settings.
        head: Head mode.
        r: Rank.
        lora: Trainable parameters in the backbone's LoRA matrices.
        head_parameters: Trainable parameters in the head.
        trainable: Their sum.
        share: ``trainable`` over the budget.
        fits: Whether it is within the budget.
    """

    targets: tuple[str, ...]
    head: str
    r: int
    lora: int
    head_parameters: int
    trainable: int
    share: float
    fits: bool


def count(model: nn.Module) -> Counts:
    """Count a built model's parameters, quantised weights with them, those of the head's replaced original left out."""
    hidden = hidden_parameters(model)
    kept = [p for name, p in model.named_parameters() if ".original_module." not in name]
    return Counts(sum(p.numel() for p in kept if p.requires_grad), sum(p.numel() for p in kept) + hidden)


def meta_model(config: PreTrainedConfig, labels: int) -> nn.Module:
    """Build a classification model without weights, on the meta device."""
    config.num_labels = labels
    build: Any = AutoModelForSequenceClassification.from_config
    with torch.device("meta"):
        model: nn.Module = build(config, trust_remote_code=False)
    return model


class Planner:
    """Exact counts of LoRA configurations on one backbone, by arithmetic on its linear layers' shapes.

    Args:
        config: The backbone's configuration.
        labels: Number of labels.
        name: The backbone as the user named it.
        layers: Layers that get LoRA, or None for all.
    """

    def __init__(self, config: PreTrainedConfig, labels: int, name: str, layers: tuple[int, ...] | None = None) -> None:
        self._family: Family = family_of(config, name)
        self._model = meta_model(config, labels)
        self._layers = layers

    def lora(self, targets: tuple[str, ...], r: int) -> int:
        """Return the parameters of rank-``r`` updates on the targets: r · (in + out) for each linear module."""
        modules = linear_modules(self._model, self._family, targets, self._layers)
        return sum(r * _span(self._model.get_submodule(module)) for module in modules)

    def settings(self, lora: LoraConfig, head: str) -> Plan:
        """Return the counts of whole settings, with each module's own rank, and DoRA's magnitudes."""
        ranks = module_ranks(self._model, self._family, lora)
        modules = {name: self._model.get_submodule(name) for name in ranks}
        updates = sum(rank.r * _span(modules[name]) for name, rank in ranks.items())
        magnitudes = sum(module.get_parameter("weight").shape[0] for module in modules.values()) if lora.dora else 0
        in_backbone, in_head = updates + magnitudes, self.head(head, lora.r)
        total, budget = in_backbone + in_head, lora.budget
        return Plan(lora.targets, head, lora.r, in_backbone, in_head, total, total / budget, total <= budget)

    def head(self, mode: str, r: int) -> int:
        """Return the head's trainable parameters in mode ``full``, ``lora`` or ``linear``."""
        output = sum(p.numel() for p in self._model.get_submodule(self._family.head_output).parameters())
        if mode == "linear":
            return output
        if mode == "lora":
            return output + r * _span(self._model.get_submodule(self._family.head_dense))
        return sum(p.numel() for name, p in self._model.named_parameters() if self._in_head(name))

    def _in_head(self, parameter: str) -> bool:
        return any(part in self._family.head_modules for part in parameter.split("."))

    def plan(self, targets: tuple[str, ...], head: str, r: int, budget: int) -> Plan:
        """Return one configuration's counts against a budget."""
        lora, in_head = self.lora(targets, r), self.head(head, r)
        total = lora + in_head
        return Plan(targets, head, r, lora, in_head, total, total / budget, total <= budget)

    def largest_rank(self, targets: tuple[str, ...], head: str, budget: int) -> int:
        """Return the greatest rank that fits the budget, 0 if none does."""
        per_rank = self.lora(targets, 1) + self.head(head, 1) - self.head(head, 0)
        return max(0, math.floor((budget - self.head(head, 0)) / per_rank))

    def plans(self, budget: int, ranks: tuple[int, ...] = RANKS) -> list[Plan]:
        """Return the configurations worth having: each set of targets and head at each rank and at the greatest one.

        Sorted: what fits first, the most parameters first within each part.
        """
        plans = {(p.targets, p.head, p.r): p for p in self._candidates(budget, ranks)}
        return sorted(plans.values(), key=lambda p: (not p.fits, -p.trainable if p.fits else p.trainable))

    def _candidates(self, budget: int, ranks: tuple[int, ...]) -> Iterator[Plan]:
        for targets in TARGET_SETS:
            for head in HEADS:
                best = self.largest_rank(targets, head, budget)
                for r in sorted({*ranks, *([best] if best else [])}):
                    yield self.plan(targets, head, r, budget)


def as_rows(plans: list[Plan]) -> list[dict[str, object]]:
    """Return plans as plain dictionaries, for JSON."""
    return [asdict(plan) | {"targets": list(plan.targets)} for plan in plans]


def check_budget(
    model: peft.PeftModel, config: PreTrainedConfig, settings: ModelConfig, lora: LoraConfig, labels: int
) -> None:
    """Refuse a built model with more trainable parameters than ``lora.budget``.

    Raises:
        NewsloraError: Over the budget; the message names the nearest configurations that fit.
    """
    trainable = count(model).trainable
    if trainable <= lora.budget:
        return
    planner = Planner(config, labels, settings.backbone, lora.layers)
    raise NewsloraError(
        f"lora.budget: this configuration trains {trainable:,} parameters, over the budget of {lora.budget:,}; "
        f"{_nearest(planner, lora, settings.head)}"
    )


def _nearest(planner: Planner, lora: LoraConfig, head: str) -> str:
    targets = expand_targets(lora.targets)
    largest = {mode: planner.largest_rank(targets, mode, lora.budget) for mode in HEADS}
    options = [(head, largest[head]), *((mode, min(lora.r, largest[mode])) for mode in HEADS if mode != head)]
    fitting = [
        f"--lora.r {r} --model.head {mode} ({planner.plan(targets, mode, r, lora.budget).trainable:,})"
        for mode, r in options
        if r > 0
    ]
    return f"nearest that fit: {'; '.join(fitting)}" if fitting else "no rank fits these targets; give fewer targets"


def _span(linear: nn.Module) -> int:
    return sum(linear.get_parameter("weight").shape)  # out + in
