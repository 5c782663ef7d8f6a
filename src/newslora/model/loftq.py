"""Start of the low-rank matrices from what quantisation rounds off (LoftQ, Li et al. 2023, arXiv 2310.08659).

One step of their algorithm 1: with Q the quantised weight, s·B·A is the best approximation of rank r to W − Q in the
Frobenius norm, by its singular value decomposition, so that training starts from nearly the full-precision backbone.
More steps would quantise W − s·B·A anew, and the frozen weights would no more follow from the backbone on disk.
"""

from typing import Any

import torch
from torch import nn

from newslora.config import LoraConfig
from newslora.errors import NewsloraError
from newslora.model.quantized import QuantizedLinear, hidden_parameters
from newslora.model.residual import lora_layers


def check_loftq(model: nn.Module, lora: LoraConfig) -> None:
    """Refuse the start where nothing is quantised.

    Raises:
        NewsloraError: ``lora.init`` is ``loftq`` and the model is in full precision, or its magnitudes are trained.
    """
    if lora.init == "loftq" and lora.dora:
        raise NewsloraError("lora.dora: takes its magnitudes before LoftQ's start; take lora.init default, or no dora")
    if lora.init == "loftq" and not hidden_parameters(model):
        raise NewsloraError(
            "lora.init: loftq starts from what quantisation rounds off; set model.quantization to int8 or nf4"
        )


def start_from_rest(model: nn.Module) -> None:
    """Set every update of a quantised module to what its weight lost, and let that go.

    Args:
        model: Under peft, quantised with ``keep_rest``.
    """
    for layer in lora_layers(model):
        base = layer.get_base_layer()
        if isinstance(base, QuantizedLinear) and base.rest is not None:
            _start(layer, base.rest)
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.rest = None


def _start(layer: Any, rest: torch.Tensor) -> None:  # noqa: ANN401 - a peft LoraLayer
    a, b, scale = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"]
    left, values, right = torch.linalg.svd(rest, full_matrices=False)
    root = values[: len(a)].sqrt()
    with torch.no_grad():
        a.copy_(root[:, None] * right[: len(a)])
        b.copy_(left[:, : len(a)] * root / scale)
