"""The feed-forward network of a post-norm layer, in strips of tokens that stay in the processor's cache.

The inner activations are four times as wide as the rest of the layer. Written out whole, each element-wise pass over
them goes to main memory and back; strip by strip, the first product, the activation and the second product follow each
other in cache. The activation's output is not kept for the backward pass, which recomputes it where LoRA asks for it.
"""

from collections.abc import Callable, Iterator

import torch
from torch.autograd.function import FunctionCtx
from torch.nn.functional import gelu

from newslora.model.projection import Projection, add_update_gradients, compute_dtype

STRIP_BYTES = 1 << 21


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
        x: [tokens, width].
        up: From width to the inner width.
        down: Back to width.
        activation: The element-wise function between.
        exact: Whether the activation is GELU by the error function, which the strips are written for.

    Returns:
        [tokens, width].
    """
    plain = exact and x.device.type == "cpu" and compute_dtype(x) == x.dtype
    if not plain or up.drops or down.drops:
        return down(activation(up(x)), x)
    training = torch.is_grad_enabled()
    for projection in (up, down):
        projection.refresh(x.dtype, training=training and bool(projection.updates))
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
        tracked = any(ctx.needs_input_grad)
        strips = list(_strips(x, up))
        inner, longest = up.weight.shape[0], strips[0].stop
        kept = x.new_empty(len(x) if tracked else longest, inner)
        active, y = x.new_empty(longest, inner), torch.empty_like(x)
        up_bias, down_bias = _bias(up, x), _bias(down, x)
        for strip in strips:
            size = strip.stop - strip.start
            hidden = kept[strip] if tracked else kept[:size]
            torch.addmm(up_bias, x[strip], up.weight.t(), out=hidden)
            torch.ops.aten.gelu.out(hidden, out=active[:size])
            torch.addmm(x[strip], active[:size], down.weight.t(), out=y[strip]).add_(down_bias)
        if tracked:
            ctx.save_for_backward(x, kept)
        return y

    @staticmethod
    def backward(ctx: _Context, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient, (x, hidden) = gradients[0].contiguous(), ctx.saved_tensors
        up, down = ctx.up, ctx.down
        grads = [torch.zeros_like(parameter) for parameter in (*up.parameters, *down.parameters)]
        count = len(up.parameters)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        strips = list(_strips(x, up))
        inner = x.new_empty(strips[0].stop, hidden.shape[1])
        for strip in strips:
            d_inner = torch.mm(gradient[strip], down.weight, out=inner[: strip.stop - strip.start])
            if down.updates:
                add_update_gradients(down, gelu(hidden[strip]), gradient[strip], grads[count:])
            torch.ops.aten.gelu_backward.grad_input(d_inner, hidden[strip], grad_input=d_inner)
            add_update_gradients(up, x[strip], d_inner, grads[:count])
            if dx is not None:
                torch.addmm(gradient[strip], d_inner, up.weight, out=dx[strip])
        return (dx, None, None, *grads)


def _bias(projection: Projection, x: torch.Tensor) -> torch.Tensor:
    bias = projection.bias(x.dtype)
    return x.new_zeros(projection.weight.shape[0]) if bias is None else bias


def _strips(x: torch.Tensor, up: Projection) -> Iterator[slice]:
    size = max(64, STRIP_BYTES // (up.weight.shape[0] * x.element_size()))
    for start in range(0, len(x), size):
        yield slice(start, min(start + size, len(x)))
