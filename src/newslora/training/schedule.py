"""The optimiser and how its learning rate runs over the steps."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers import get_scheduler

from newslora.config import TrainConfig
from newslora.model.quantized import library

# The settings' names and transformers'.
_NAMES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "cosine-restarts": "cosine_with_restarts",
}


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: TrainConfig, b_matrices: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), torch's fused one or bitsandbytes' with 8-bit moments.

    Matrices decay by ``train.weight_decay``; biases and normalisation gains, which are vectors, do not. Each group's
    ``rate`` is a factor on the learning rate: LoRA+ (Hayou et al. 2024, arXiv 2402.12354) has one for the matrices B.

    Args:
        parameters: What is trained.
        config: The settings.
        b_matrices: Those of the parameters that are LoRA's matrices B.

    Raises:
        NewsloraError: ``train.optimizer`` needs bitsandbytes, and it is not installed.
    """
    parameters = list(parameters)
    fast = {id(p) for p in b_matrices} if config.b_lr_ratio > 1 else set()
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1 and id(p) not in fast], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        {"params": [p for p in parameters if id(p) in fast], "weight_decay": config.weight_decay},
    ]
    for group, rate in zip(groups, (1.0, 1.0, config.b_lr_ratio), strict=True):
        group |= {"rate": rate, "lr": config.lr * rate}
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=True)
    eight: torch.optim.Optimizer = library("train.optimizer: adamw8bit", "bitsandbytes.optim").AdamW8bit(groups)
    return eight


def learning_rate(config: TrainConfig, steps: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the step, counted from 0.

    It rises linearly from 0 over ``train.warmup`` of the steps, then follows ``train.schedule``: ``cosine-restarts``
    is SGDR with cycles of equal length and least rate 0 (Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5).

    Args:
        config: The settings.
        steps: All optimisation steps of the run.
    """
    # transformers ties its schedules to an optimiser; only the function of the step is wanted, since a rate that
    # depends on the step alone needs no state in a checkpoint and is right again after a resume.
    carrier = torch.optim.SGD([torch.zeros(1)], lr=config.lr)
    warmup = round(config.warmup * steps)
    cycles = {"num_cycles": config.restarts} if config.schedule == "cosine-restarts" else {}
    schedule = get_scheduler(_NAMES[config.schedule], carrier, warmup, steps, scheduler_specific_kwargs=cycles)
    shape: Callable[[int], float] = schedule.lr_lambdas[0]
    return lambda step: config.lr * shape(step)
