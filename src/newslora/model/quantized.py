"""A frozen backbone's linear weights in 8 or 4 bits, made whole again for each product and dropped after it.

``int8`` rounds each row to multiples of its absmax / 127 (Dettmers et al. 2022, arXiv 2208.07339, section 2); ``nf4``
is QLoRA's 4-bit NormalFloat in blocks of 64 weights, without double quantisation (Dettmers et al. 2023, arXiv
2305.14314, section 3). What is trained stays float, and so do embeddings, norms, biases and the head: a head that is
quantised with the rest trains to nothing (transformers #24037).
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from newslora.config import LoraConfig
from newslora.errors import NewsloraError
from newslora.model.families import Family
from newslora.model.projection import Projection
from newslora.model.residual import RESIDUAL

Kind = Literal["int8", "nf4"]
BLOCK: Final = 64  # weights that share an absmax in NF4
Parts = tuple[torch.Tensor, torch.Tensor]  # codes, scales


class QuantizedLinear(nn.Linear):
    """A frozen linear module whose weight [out, in] is kept as codes.

    ``weight`` computes the dequantised weight anew each time, float32; the module computes with exactly that. Codes and
    scales are no part of the state: what stands on disk is the backbone's own weights, from which they are made.

    Args:
        linear: The module in full precision, on a CPU.
        kind: ``int8`` or ``nf4``.
        keep_rest: Whether what is rounded off is kept.

    Attributes:
        rest: What was rounded off, float32 [out, in], if it is kept: for a start by LoftQ, which lets it go.
    """

    def __init__(self, linear: nn.Linear, kind: Kind, keep_rest: bool = False) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.in_features, self.out_features, self.kind = linear.in_features, linear.out_features, kind
        self.bias = linear.bias
        codes, scales = _QUANTIZE[kind](linear.weight.detach())
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.rest = linear.weight.detach() - self.weight if keep_rest else None

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]  # in place of nn.Linear's parameter
        """The dequantised weight, float32 [out, in]."""
        codes, scales = self.get_buffer("codes"), self.get_buffer("scales")
        return _DEQUANTIZE[self.kind](codes, scales, (self.out_features, self.in_features))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return [..., out] for [..., in]; no weight is kept for the backward pass, which makes it anew."""
        rows = Projection([self])(input.reshape(-1, self.in_features))
        return rows.view(*input.shape[:-1], self.out_features)


def check_start(model: nn.Module, lora: LoraConfig) -> None:
    """Refuse a start of the low-rank matrices that would change weights that are quantised.

    Raises:
        NewsloraError: ``lora.init`` takes its start out of the weight; the rest could not be found again on loading.
    """
    if lora.init in RESIDUAL and hidden_parameters(model):
        raise NewsloraError(
            f"lora.init: {lora.init} changes the backbone's weights, which model.quantization keeps as they are; "
            "take default, eva or loftq, or quantization none"
        )


def quantize(model: PreTrainedModel, family: Family, kind: Kind | Literal["none"], keep_rest: bool = False) -> None:
    """Quantise the linear modules of every layer, in place; nothing outside the layers, so never the head.

    Args:
        model: The classification model in float32 on a CPU, before LoRA.
        family: Its family.
        kind: ``int8`` or ``nf4``; ``none`` leaves all as it is.
        keep_rest: Whether modules keep what is rounded off.

    Raises:
        NewsloraError: bitsandbytes is not installed.
    """
    if kind == "none":
        return
    library(f"model.quantization: {kind}")
    for layer in model.get_submodule(family.layers).children():
        for path in dict.fromkeys(family.modules.values()):
            linear = cast(nn.Linear, layer.get_submodule(path))
            layer.set_submodule(path, QuantizedLinear(linear, kind, keep_rest).requires_grad_(False))


def dequantize(model: nn.Module) -> None:
    """Put plain linear modules with the dequantised weights in place of quantised ones."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            model.set_submodule(name, _plain(module))


def hidden_parameters(model: nn.Module) -> int:
    """Return how many weights a model keeps quantised, which are no parameters of its modules."""
    return sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, QuantizedLinear))


def library(setting: str, module: str = "bitsandbytes.functional") -> Any:  # noqa: ANN401 - a module of a library
    """Return a module of bitsandbytes.

    Args:
        setting: What asks for it, for the message.
        module: Its name.

    Raises:
        NewsloraError: bitsandbytes is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise NewsloraError(f"{setting} needs bitsandbytes; install newslora[quantization]") from error


def _plain(module: QuantizedLinear) -> nn.Linear:
    plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
    plain.weight = nn.Parameter(module.weight, requires_grad=False)
    plain.bias = module.bias
    return plain


def _to_int8(weight: torch.Tensor) -> Parts:
    codes, scales, _ = library("int8").int8_vectorwise_quant(weight)
    return codes, scales


def _from_int8(codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    weight: torch.Tensor = library("int8").int8_vectorwise_dequant(codes, scales)
    return weight


def _to_nf4(weight: torch.Tensor) -> Parts:
    codes, state = library("nf4").quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4")
    return codes, state.absmax


def _from_nf4(codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    functional = library("nf4")
    # As one row: bitsandbytes 0.50's CPU kernel takes wrong scales where a row is no whole number of blocks.
    flat = torch.Size((shape[0] * shape[1],))
    state = functional.QuantState(scales, shape=flat, blocksize=BLOCK, quant_type="nf4", dtype=torch.float32)
    weight: torch.Tensor = functional.dequantize_4bit(codes, state)
    return weight.view(shape)


_QUANTIZE: dict[Kind, Callable[[torch.Tensor], Parts]] = {"int8": _to_int8, "nf4": _to_nf4}
_DEQUANTIZE: dict[Kind, Callable[[torch.Tensor, torch.Tensor, tuple[int, int]], torch.Tensor]] = {
    "int8": _from_int8,
    "nf4": _from_nf4,
}
