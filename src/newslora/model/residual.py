"""Starts of the low-rank matrices from the weight itself: PiSSA and OLoRA, and how what they learn is saved.

PiSSA (Meng et al. 2024, arXiv 2404.02948) and OLoRA (Büyükakyüz 2024, arXiv 2406.01775) take a part of the weight as
first update and freeze what is left, so W = W_rest + s·B0·A0, and training yields W + s·(B·A − B0·A0). What is saved is
that difference as plain LoRA of twice the rank on the untouched backbone, s·[B −B0]·[A; A0]: any peft loads it, and no
decomposition is repeated on loading.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

RESIDUAL = ("pissa", "olora")


def keep_start(model: nn.Module) -> None:
    """Remember the matrices that the frozen rest was made with, for :func:`plain_state`."""
    for module in lora_layers(model):
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        # Buffers move with the model; they are no part of its state, since a fresh build gives the same ones.
        module.register_buffer("start_A", a.detach().clone(), persistent=False)
        module.register_buffer("start_B", b.detach().clone(), persistent=False)


def plain_state(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return peft's state with each update that started from its weight as plain LoRA of twice the rank."""
    plain = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and hasattr(module, "start_A"):
            start: Any = module
            a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            plain[a] = torch.cat([state[a], start.start_A])
            plain[b] = torch.cat([state[b], -start.start_B], dim=1)
    return plain


def plain_config(model: peft.PeftModel) -> peft.LoraConfig:
    """Return peft's configuration for what :func:`plain_state` returns: an update without a start of its own."""
    config: Any = model.peft_config["default"]
    factor = 2 if config.init_lora_weights in RESIDUAL else 1
    changed: dict[str, Any] = {
        "r": factor * config.r,
        "lora_alpha": factor * config.lora_alpha,
        "rank_pattern": {name: factor * r for name, r in config.rank_pattern.items()},
        "alpha_pattern": {name: factor * alpha for name, alpha in config.alpha_pattern.items()},
    }
    plain: peft.LoraConfig = replace(config, **changed, init_lora_weights=True, eva_config=None)
    return plain


def b_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return every update's second matrix, the head's too."""
    return [p for name, p in model.named_parameters() if ".lora_B." in name or name.endswith("weight.0.B")]


def lora_layers(model: nn.Module) -> Iterator[Any]:
    """Return the modules that peft has adapted."""
    return (module for module in model.modules() if isinstance(module, LoraLayer))
