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
from torch.nn.functional import dropout, linear


@dataclass(frozen=True)
class Update:
    """One linear module's low-rank update and the rows of the joint weight that it changes."""

    A: nn.Parameter  # [r, in]
    B: nn.Parameter  # [out, r]
    scale: float
    rows: slice


class Projection:
    """One or more linear modules with a common input as a single product.

    Args:
        modules: ``nn.Linear`` or peft's LoRA layer around one, in the order their outputs are concatenated.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        bases = [_base(module) for module in modules]
        self.updates: list[Update] = []
        self.drop: nn.Module | None = None
        start = 0
        for module, base in zip(modules, bases, strict=True):
            if base is not module:
                self._add_update(module, slice(start, start + base.out_features))
            start += base.out_features
        self._frozen = bases
        self._shared = len(bases) == 1 and not self.updates
        self._weight: torch.Tensor | None = None
        self._seen: tuple[int, ...] = ()

    def _add_update(self, module: Any, rows: slice) -> None:
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        self.updates.append(Update(a, b, module.scaling["default"], rows))
        self.drop = module.lora_dropout["default"]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable matrices, A and B of each update in turn."""
        return [matrix for update in self.updates for matrix in (update.A, update.B)]

    @torch.no_grad()
    def weight(self, dtype: torch.dtype, fold: bool = True) -> torch.Tensor:
        """Return the joint weight [out, in] with every update folded in, computed anew only after a change.

        Args:
            dtype: The arithmetic's type.
            fold: False for the frozen weight alone.
        """
        if self._shared:
            return self._frozen[0].weight.to(dtype)
        device = self._frozen[0].weight.device
        state = (*(matrix._version for matrix in self.parameters), int(fold))
        if self._weight is None or self._weight.dtype != dtype or self._weight.device != device:
            self._weight = torch.cat([base.weight for base in self._frozen]).to(dtype)
            self._seen = ()
        if state != self._seen:
            self._fold(self._weight, fold)
            self._seen = state
        return self._weight

    def _fold(self, weight: torch.Tensor, fold: bool) -> None:
        starts = {update.rows.start: update for update in self.updates}
        start = 0
        for base in self._frozen:
            update = starts.get(start)
            rows = slice(start, start + base.out_features)
            if update is not None:
                folded = torch.addmm(base.weight, update.B, update.A, alpha=update.scale) if fold else base.weight
                weight[rows].copy_(folded)
            start = rows.stop

    def bias(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Return the joint bias [out], or None where the modules have none."""
        biases = [base.bias for base in self._frozen if base.bias is not None]
        return torch.cat(biases).to(dtype) if biases else None

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Return the modules' outputs [tokens, out] for inputs [tokens, in], plus ``residual`` if given."""
        if self.drop is not None and self.drop.training and isinstance(self.drop, nn.Dropout) and self.drop.p > 0:
            y = self._with_dropout(x)
            return y if residual is None else y + residual
        result: torch.Tensor = _Product.apply(x, residual, self, *self.parameters)
        return result

    def _with_dropout(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [linear(x, base.weight, base.bias) for base in self._frozen]
        starts = torch.tensor([0, *(base.out_features for base in self._frozen)]).cumsum(0).tolist()
        for update in self.updates:
            assert isinstance(self.drop, nn.Dropout)  # noqa: S101 - narrows the type for mypy
            low = linear(linear(dropout(x, self.drop.p), update.A), update.B)
            index = starts.index(update.rows.start)
            outputs[index] = outputs[index] + update.scale * low
        return torch.cat(outputs, dim=-1)


def _base(module: Any) -> nn.Linear:
    base = getattr(module, "base_layer", module)
    assert isinstance(base, nn.Linear)  # noqa: S101 - narrows the type for mypy
    return base


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the type that products on ``x`` run in: autocast's where it is on, else that of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, residual: torch.Tensor | None, projection: Projection, *parameters: nn.Parameter
    ) -> torch.Tensor:
        dtype = compute_dtype(x)
        ctx.input_dtype, ctx.projection, ctx.dtype = x.dtype, projection, dtype
        ctx.residual_dtype = None if residual is None else residual.dtype
        x = x.to(dtype)
        weight, bias = projection.weight(dtype), projection.bias(dtype)
        ctx.save_for_backward(*((x, *parameters) if parameters else ()))
        with torch.autocast(x.device.type, enabled=False):
            if residual is None:
                return linear(x, weight, bias)
            y = torch.addmm(residual.to(dtype), x, weight.t())
            return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.mm(gradient, ctx.projection.weight(ctx.dtype)).to(ctx.input_dtype)
        residual = gradient.to(ctx.residual_dtype) if ctx.needs_input_grad[1] else None
        return (dx, residual, None, *_update_gradients(ctx, gradient))


def _update_gradients(ctx: Any, gradient: torch.Tensor) -> list[torch.Tensor]:
    if not ctx.saved_tensors:
        return []
    x = ctx.saved_tensors[0]
    results = []
    for update in ctx.projection.updates:
        part = gradient[:, update.rows]
        a, b = update.A.to(ctx.dtype), update.B.to(ctx.dtype)
        db = torch.mm(part.t(), torch.mm(x, a.t()))
        da = torch.mm(torch.mm(part, b).t(), x)
        results += [da.mul_(update.scale).to(update.A.dtype), db.mul_(update.scale).to(update.B.dtype)]
    return results
