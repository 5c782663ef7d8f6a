"""Ranks shared out among the modules by the training rows' gradients, at no more parameters than uniform ranks take.

A step along the best rank-r approximation of −G, G a weight's gradient, lowers the loss in the first order by the sum
of G's r greatest squared singular values (Eckart & Young 1936). So ranks go one by one to the module where the next
singular value's square is greatest for the parameters that it costs.
"""

import heapq
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from newslora.config import RunConfig, change
from newslora.data.batches import make_batch
from newslora.data.prepare import Prepared, Split
from newslora.model.classifier import NewsModel, build_model
from newslora.model.families import Family
from newslora.model.residual import lora_layers
from newslora.model.warm_head import warm_head

ROWS, BATCH = 512, 32
MOST = 4  # times the uniform rank that a module may get: the gradient of one point says little of the far ones


def allocated(config: RunConfig, data: Prepared) -> RunConfig:
    """Return the settings with ``lora.ranks`` shared out where ``lora.allocation`` asks for it.

    Alphas go with the ranks, so that every update keeps the factor that it has at ``lora.r``.

    Args:
        config: The settings.
        data: Its training rows give the gradients; no other row is looked at.
    """
    lora = config.lora
    if lora.allocation == "none":
        return config
    plain = {"lora.allocation": "none", "lora.init": "default", "lora.dora": False, "lora.ranks": {}, "lora.alphas": {}}
    # The stock pass lets autograd reach the frozen weights, which have gradients in full precision alone.
    plain |= {"model.quantization": "none"}
    model = build_model(change(config, plain | {"train.engine": "padded"}, "lora.allocation"), data.names)
    warm_head(model, data.train.encoded, data.train.labels, config.train.seed)
    gains, costs = _spectra(model, data.train, config.train.seed), _costs(model)
    ranks = share_out(gains, costs, lora.r * sum(costs.values()), MOST * lora.r)
    patterns = {_pattern(name, model.family): r for name, r in ranks.items()}
    power = {"alpha/r": 1.0, "rslora": 0.5, "alpha": 0.0}[lora.scaling]
    alphas = {name: lora.alpha * (r / lora.r) ** power for name, r in patterns.items()}
    return change(config, {"lora.allocation": "none", "lora.ranks": patterns, "lora.alphas": alphas}, "lora.allocation")


def share_out(gains: Mapping[str, np.ndarray], costs: Mapping[str, int], budget: int, most: int) -> dict[str, int]:
    """Return each module's rank: 1 at least, the rest where a rank gains most for its parameters.

    Args:
        gains: What each further rank gains, falling, [ranks] a module.
        costs: Parameters of one rank, by module.
        budget: Parameters of all ranks together.
        most: Greatest rank of a module.
    """
    ranks = dict.fromkeys(gains, 1)
    left = budget - sum(costs.values())
    waiting = [_next(name, 1, gains, costs) for name in gains if min(most, len(gains[name])) > 1]
    heapq.heapify(waiting)
    while waiting:
        _, name = heapq.heappop(waiting)
        if costs[name] > left:
            continue
        ranks[name] += 1
        left -= costs[name]
        if ranks[name] < min(most, len(gains[name])):
            heapq.heappush(waiting, _next(name, ranks[name], gains, costs))
    return ranks


def _next(name: str, rank: int, gains: Mapping[str, np.ndarray], costs: Mapping[str, int]) -> tuple[float, str]:
    return -float(gains[name][rank]) / costs[name], name


def _spectra(model: NewsModel, train: Split, seed: int) -> dict[str, np.ndarray]:
    """Return the squared singular values of each adapted weight's gradient, falling, by the module's name."""
    names = {id(module): name for name, module in model.plain.named_modules()}
    weights = {names[id(layer)]: layer.base_layer.weight.requires_grad_(True) for layer in lora_layers(model)}
    rows = np.random.default_rng(seed).permutation(len(train.labels))[:ROWS]
    model.eval()
    for start in range(0, len(rows), BATCH):
        batch = make_batch(train.encoded, rows[start : start + BATCH], train.labels)
        assert batch.labels is not None  # noqa: S101 - narrows the type for mypy
        loss = cross_entropy(model(batch), batch.labels, reduction="sum") / len(rows)
        torch.autograd.backward(loss)
    spectra = {}
    for name, weight in weights.items():
        assert weight.grad is not None  # noqa: S101 - every adapted module is on the way to the loss
        spectra[name] = torch.linalg.svdvals(weight.grad).square().numpy()
    return spectra


def _costs(model: NewsModel) -> dict[str, int]:
    names = {id(module): name for name, module in model.plain.named_modules()}
    return {names[id(layer)]: layer.in_features + layer.out_features for layer in lora_layers(model)}


def _pattern(module: str, family: Family) -> str:
    """Return a module as the settings write it: ``5.query``."""
    layer, _, path = module.removeprefix(f"{family.layers}.").partition(".")
    target = next(target for target, own in family.modules.items() if own == path)
    return f"{layer}.{target}"
