"""The feed-forward network of a post-norm layer as one function, which keeps no more than its backward pass needs.

The inner activations are four times as wide as the rest of the layer: the activation's output is not kept but
recomputed where LoRA asks for it, and its gradient is written over the product's.
"""

from collections.abc import Callable

import torch
from torch.autograd.function import FunctionCtx
from torch.nn.functional import gelu

from newslora.model.projection import Projection, add_update_gradients, compute_dtype


def feed_forward(
    x: torch.Tensor,
    up: Projection,
    down: Projection,
    activation: Callable[[torch.Tensor], torch.Tensor],
    *,
    exact: bool,
) -> torch.Tensor:
    """Return ``x + down(activation(up(x)))``.

    Args:
        x: [tokens, width]; overwritten where gradients are off.
        up: From width to the inner width.
        down: Back to width.
        activation: The element-wise function between.
        exact: Whether the activation is GELU by the error function, which the function is written for.

    Returns:
        [tokens, width].
    """
    plain = exact and x.device.type == "cpu" and compute_dtype(x) == x.dtype
    if not plain or not (up.folds and down.folds):
        return down(activation(up(x)), x)
    training = torch.is_grad_enabled()
    for projection in (up, down):
        projection.refresh(x.dtype, training=training and bool(projection.updates))
    if not training:
        inner = torch.ops.aten.gelu_(torch.addmm(_bias(up, x), x, up.weight.t()))
        return x.addmm_(inner, down.weight.t()).add_(_bias(down, x))
    result: torch.Tensor = _FeedForward.apply(x, up, down, *up.parameters, *down.parameters)  # type: ignore[no-untyped-call]
    return result


class _Context(FunctionCtx):
    """What the backward pass is left with."""

    up: Projection
    down: Projection
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[torch.Tensor, ...]


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, x: torch.Tensor, up: Projection, down: Projection, *parameters: torch.Tensor
    ) -> torch.Tensor:
        ctx.up, ctx.down = up, down
        hidden = torch.addmm(_bias(up, x), x, up.weight.t())
        y = torch.addmm(x, gelu(hidden), down.weight.t()).add_(_bias(down, x))
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, hidden)
        return y

    @staticmethod
    def backward(ctx: _Context, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient, (x, hidden) = gradients[0].contiguous(), ctx.saved_tensors
        up, down = ctx.up, ctx.down
        grads = [torch.zeros_like(parameter) for parameter in (*up.parameters, *down.parameters)]
        count = len(up.parameters)
        if down.updates:
            add_update_gradients(down, gelu(hidden), gradient, grads[count:])
        d_inner = torch.mm(gradient, down.weight)
        torch.ops.aten.gelu_backward.grad_input(d_inner, hidden, grad_input=d_inner)
        add_update_gradients(up, x, d_inner, grads[:count])
        dx = torch.addmm(gradient, d_inner, up.weight) if ctx.needs_input_grad[0] else None
        return (dx, None, None, *grads)


def _bias(projection: Projection, x: torch.Tensor) -> torch.Tensor:
    bias = projection.bias(x.dtype)
    return x.new_zeros(projection.weight.shape[0]) if bias is None else bias
