"""Linear modules that share their input, run as one matrix product with the low-rank update folded into the weight.

peft computes x Wᵀ + s·(x Aᵀ) Bᵀ, three products and two passes over the activations more than a frozen layer needs.
Without dropout on the low-rank branch it equals x (W + s·B A)ᵀ (Hu et al. 2021, section 4.1), whose weight costs a
product of rank r once a step, whatever the number of tokens. The gradients of A and B need no product of full size
either: with X the input and G the output's gradient, ∂B = s·Gᵀ(X Aᵀ) and ∂A = s·(G B)ᵀX.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import dropout, linear

from newslora.model.products import product


@dataclass(frozen=True)
class Update:
    """One linear module's low-rank update and the rows of the joint weight that it changes."""

    A: nn.Parameter  # [r, in]
    B: nn.Parameter  # [out, r]
    base: nn.Linear  # frozen
    scale: float
    rows: slice


class Projection:
    """One or more linear modules with a common input as a single product.

    A variant such as DoRA, whose weight is no sum of a frozen one and a low-rank one, runs through peft's own modules.

    Args:
        modules: ``nn.Linear`` or peft's LoRA layer around one, in the order their outputs are concatenated.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        bases = [_base(module) for module in modules]
        self.updates: list[Update] = []
        self.drop: nn.Dropout | None = None
        self._modules = list(modules)
        self._variant = any(getattr(module, "lora_variant", None) for module in modules)
        start = 0
        for module, base in zip(modules, bases, strict=True):
            if base is not module:
                self._add_update(module, base, slice(start, start + base.out_features))
            start += base.out_features
        self._frozen = bases
        self._shared = len(bases) == 1 and not self.updates
        # A quantised weight is no parameter: it is made whole for each product, and keeping it would undo the saving.
        self._remade = any("weight" not in base._parameters for base in bases)
        self._dtype = torch.float32
        self._weight: torch.Tensor | None = None
        self._seen: tuple[int, ...] | None = None

    def _add_update(self, module: nn.Module, base: nn.Linear, rows: slice) -> None:
        lora: Any = module
        a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
        self.updates.append(Update(a, b, base, lora.scaling["default"], rows))
        drop = lora.lora_dropout["default"]  # an nn.Identity where there is none
        self.drop = drop if isinstance(drop, nn.Dropout) else None

    @property
    def modules(self) -> list[nn.Linear]:
        """The frozen linear modules, in the order of the outputs."""
        return self._frozen

    @property
    def drops(self) -> bool:
        """Whether the low-rank branch drops inputs at present, so that it cannot be folded."""
        return self.drop is not None and self.drop.training and self.drop.p > 0

    @property
    def remade(self) -> bool:
        """Whether the weight is made for each product, from a quantised one."""
        return self._remade

    @property
    def folds(self) -> bool:
        """Whether the modules are one product at present."""
        return not self._variant and not self.drops

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable matrices, A and B of each update in turn."""
        return [matrix for update in self.updates for matrix in (update.A, update.B)]

    @torch.no_grad()
    def refresh(self, dtype: torch.dtype, training: bool) -> None:
        """Fold every update into the joint weight, unless nothing changed since the last time.

        Args:
            dtype: The arithmetic's type.
            training: Whether the matrices may change before the next pass. PyTorch's fused optimisers do not count up
                a parameter's version, so a fold made in training is never trusted again.
        """
        self._dtype = dtype
        if self._remade:
            return
        frozen = self._frozen[0].weight
        if self._shared and frozen.dtype == dtype:
            self._weight = frozen
            return
        if self._weight is None or self._weight.dtype != dtype or self._weight.device != frozen.device:
            self._weight = torch.cat(tuple(base.weight for base in self._frozen)).to(dtype)
            self._seen = None
        state = tuple(matrix._version for matrix in self.parameters)
        if state != self._seen:
            for update in self.updates:
                folded = torch.addmm(update.base.weight, update.B, update.A, alpha=update.scale)
                self._weight[update.rows].copy_(folded)
        self._seen = None if training else state

    @property
    def weight(self) -> torch.Tensor:
        """The joint weight [out, in] as last folded."""
        if self._remade:
            return self._remake()
        if self._weight is None:
            raise RuntimeError("refresh() comes before weight")
        return self._weight

    @torch.no_grad()
    def _remake(self) -> torch.Tensor:
        parts = [base.weight for base in self._frozen]
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        for update in self.updates:
            weight[update.rows].addmm_(update.B, update.A, alpha=update.scale)
        return weight.to(self._dtype)

    def bias(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Return the joint bias [out], or None where the modules have none."""
        biases = tuple(base.bias for base in self._frozen if base.bias is not None)
        return torch.cat(biases).to(dtype) if biases else None

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Return the modules' outputs [tokens, out] for inputs [tokens, in], plus ``residual`` if given."""
        if self._variant:
            y = torch.cat([module(x) for module in self._modules], dim=-1)
            return y if residual is None else y + residual
        if self.drop is not None and self.drops:
            self._seen = None  # A and B may change before the next pass, and a fused optimiser leaves no mark on them
            y = self._with_dropout(x, self.drop.p)
            return y if residual is None else y + residual
        self.refresh(compute_dtype(x), training=torch.is_grad_enabled() and bool(self.updates))
        result: torch.Tensor = _Product.apply(x, residual, self, *self.parameters)  # type: ignore[no-untyped-call]
        return result

    def _with_dropout(self, x: torch.Tensor, p: float) -> torch.Tensor:
        updates = {id(update.base): update for update in self.updates}
        outputs = []
        for base in self._frozen:
            y, update = base(x), updates.get(id(base))
            if update is not None:
                y = y + update.scale * linear(linear(dropout(x, p), update.A), update.B)
            outputs.append(y)
        return torch.cat(outputs, dim=-1)


def _base(module: nn.Module) -> nn.Linear:
    base: Any = getattr(module, "base_layer", module)
    linear_module: nn.Linear = base
    return linear_module


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the type that products on ``x`` run in: autocast's where it is on, else that of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _Context(FunctionCtx):
    """What the backward pass is left with."""

    projection: Projection
    dtype: torch.dtype
    input_dtype: torch.dtype
    residual_dtype: torch.dtype | None
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[torch.Tensor, ...]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, x: torch.Tensor, residual: torch.Tensor | None, projection: Projection, *parameters: nn.Parameter
    ) -> torch.Tensor:
        dtype = compute_dtype(x)
        ctx.input_dtype, ctx.projection, ctx.dtype = x.dtype, projection, dtype
        ctx.residual_dtype = None if residual is None else residual.dtype
        x = x.to(dtype)
        weight, bias = projection.weight, projection.bias(dtype)
        ctx.save_for_backward(*((x, *parameters) if parameters else ()))
        with torch.autocast(x.device.type, enabled=False):
            return product(x, weight, bias, None if residual is None else residual.to(dtype))

    @staticmethod
    def backward(ctx: _Context, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        dx = None
        if ctx.needs_input_grad[0]:
            dx = product(gradient, ctx.projection.weight.t()).to(ctx.input_dtype)
        residual = gradient.to(ctx.residual_dtype) if ctx.needs_input_grad[1] else None
        return (dx, residual, None, *_update_gradients(ctx, gradient))


def _update_gradients(ctx: _Context, gradient: torch.Tensor) -> list[torch.Tensor]:
    if not ctx.saved_tensors:
        return []
    grads = [torch.zeros_like(parameter) for parameter in ctx.projection.parameters]
    add_update_gradients(ctx.projection, ctx.saved_tensors[0], gradient, grads)
    return grads


def add_update_gradients(
    projection: Projection, x: torch.Tensor, gradient: torch.Tensor, grads: list[torch.Tensor]
) -> None:
    """Add the gradients of each update's A and B, in turn, to ``grads``.

    Args:
        projection: The modules.
        x: Their input [tokens, in].
        gradient: Gradient of their joint output [tokens, out].
        grads: Of the shapes of ``projection.parameters``.
    """
    for update, d_a, d_b in zip(projection.updates, grads[::2], grads[1::2], strict=True):
        part = gradient[:, update.rows]
        a, b = update.A.to(x.dtype), update.B.to(x.dtype)
        d_b.add_(torch.mm(part.t(), torch.mm(x, a.t())), alpha=update.scale)
        d_a.add_(torch.mm(torch.mm(part, b).t(), x), alpha=update.scale)
