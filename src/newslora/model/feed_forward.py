"""The feed-forward network of a post-norm layer as one function, which keeps no more than its backward pass needs.

The inner activations are four times as wide as the rest of the layer: the activation's output is not kept but
recomputed where LoRA asks for it, and its gradient is written over the product's.
"""

from collections.abc import Callable

import torch
from torch.autograd.function import FunctionCtx
from torch.nn.functional import gelu

from newslora.model.products import product, product_gelu
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
        x: [tokens, width]; may be overwritten where gradients are off.
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
        inner = product_gelu(x, up.weight, up.bias(x.dtype))
        return product(inner, down.weight, down.bias(x.dtype), x, overwrite=True)
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
        hidden = product(x, up.weight, up.bias(x.dtype))
        y = product(gelu(hidden), down.weight, down.bias(x.dtype), x)
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
        d_inner = product(gradient, down.weight.t())
        torch.ops.aten.gelu_backward.grad_input(d_inner, hidden, grad_input=d_inner)
        add_update_gradients(up, x, d_inner, grads[:count])
        dx = product(d_inner, up.weight.t(), residual=gradient) if ctx.needs_input_grad[0] else None
        return (dx, None, None, *grads)
