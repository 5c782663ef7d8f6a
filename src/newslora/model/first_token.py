"""Attention of each article's first token, without any other token's key or value.

A head's score of token i is qᵀ(W_K x_i) = (W_Kᵀq)ᵀx_i, and what it reads is Σ p_i W_V x_i = W_V Σ p_i x_i. (The keys'
bias adds the same to every score, which softmax takes no notice of.) With one query an article, both weights are
applied once an article and head instead of once a token. The gradients follow by the same exchange: a weight's is a sum
over articles, from which those of its low-rank update come (W = W0 + s·BA, so ∂B = s·∂W Aᵀ and ∂A = s·Bᵀ∂W).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import FunctionCtx
from torch.nn.functional import softmax

from newslora.model.attention import Run, dropout_mask, runs_of
from newslora.model.projection import Projection, compute_dtype


def can_absorb(x: torch.Tensor, keys_values: Projection) -> bool:
    """Say whether :func:`attend_absorbed` serves: on a processor, in the input's own type, with the updates folded."""
    return x.device.type == "cpu" and compute_dtype(x) == x.dtype and keys_values.folds


def attend_absorbed(
    queries: torch.Tensor,
    x: torch.Tensor,
    keys_values: Projection,
    lengths: Sequence[int],
    heads: int,
    *,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention of every article's first token to its own article's tokens.

    Args:
        queries: [articles, width], the first tokens' queries.
        x: [tokens, width], what keys and values are made from.
        keys_values: The modules that would make them.
        lengths: Tokens of each article.
        heads: Attention heads; width = heads · head size.
        dropout: Probability of dropping an attention weight.

    Returns:
        [articles, width].
    """
    keys_values.refresh(x.dtype, training=torch.is_grad_enabled() and bool(keys_values.updates))
    own = _Own(keys_values, runs_of(lengths), heads, dropout)
    result: torch.Tensor = _Absorbed.apply(queries, x, own, *keys_values.parameters)  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True)
class _Own:
    """What the function is given beside tensors."""

    projection: Projection
    runs: tuple[Run, ...]
    heads: int
    dropout: float

    def weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys' and the values' weights, [heads, head size, width] each."""
        keys, values = self.projection.weight.chunk(2)
        return _by_head(keys, self.heads), _by_head(values, self.heads)

    def value_bias(self, like: torch.Tensor) -> torch.Tensor:
        """Return the values' bias, [heads, head size]."""
        bias = self.projection.modules[1].bias
        return like.new_zeros(self.heads, like.shape[-1]) if bias is None else bias.to(like.dtype).view(self.heads, -1)


class _Context(FunctionCtx):
    """What the backward pass is left with; of each run its weights after the softmax and its dropout mask."""

    own: _Own
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Any, ...]


class _Absorbed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, queries: torch.Tensor, x: torch.Tensor, own: _Own, *parameters: torch.Tensor
    ) -> torch.Tensor:
        keys, values = own.weights()
        q = queries.view(len(queries), own.heads, -1).transpose(0, 1)
        asked = torch.bmm(q, keys).mul_(_scale(q)).transpose(0, 1).contiguous()
        seen, total = torch.empty_like(asked), asked.new_ones(*asked.shape[:2], 1)
        kept: list[Any] = []
        for run in own.runs:
            weights = softmax(torch.bmm(asked[run.rows], _tokens(x, run).mT), dim=-1)
            mask = dropout_mask(weights, own.dropout) if own.dropout else None
            used = weights if mask is None else weights * mask
            torch.bmm(used, _tokens(x, run), out=seen[run.rows])
            if mask is not None:
                total[run.rows] = used.sum(-1, keepdim=True)
            kept += [weights, mask]
        ctx.own = own
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q, x, asked, seen, *kept)
        context = torch.bmm(seen.transpose(0, 1), values.mT).transpose(0, 1)
        return (context + total * own.value_bias(context)).reshape(len(queries), -1)

    @staticmethod
    def backward(ctx: _Context, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, x, asked, seen, *kept = ctx.saved_tensors
        keys, values = ctx.own.weights()
        g = gradients[0].reshape(len(asked), len(q), -1)
        d_seen = torch.bmm(g.transpose(0, 1), values).transpose(0, 1).contiguous()
        d_total = (g * ctx.own.value_bias(g)).sum(-1, keepdim=True)
        dx, d_asked = torch.empty_like(x), torch.empty_like(asked)
        for i, run in enumerate(ctx.own.runs):
            by_row = (part[run.rows] for part in (asked, d_seen, d_total))
            d_asked[run.rows] = _run_backward(_tokens(dx, run), _tokens(x, run), *by_row, *kept[2 * i : 2 * i + 2])
        d_asked = d_asked.transpose(0, 1).mul(_scale(q))
        full = torch.cat([torch.bmm(q.mT, d_asked), torch.bmm(g.permute(1, 2, 0), seen.transpose(0, 1))])
        dq = torch.bmm(d_asked, keys.mT).transpose(0, 1).reshape(len(asked), -1)
        return (dq, dx, None, *_update_gradients(ctx.own.projection, full.view(-1, x.shape[1])))


def _run_backward(
    dx: torch.Tensor,
    x: torch.Tensor,
    asked: torch.Tensor,
    d_seen: torch.Tensor,
    d_total: torch.Tensor,
    weights: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Write the gradient of a run's tokens ``x`` [articles, length, width] to ``dx``; return that of ``asked``."""
    d_weights = torch.bmm(d_seen, x.mT)
    if mask is not None:  # without one the values' bias is added whole, whatever the weights
        d_weights = (d_weights + d_total) * mask
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    used = weights if mask is None else weights * mask
    torch.bmm(torch.cat([used, d_scores], dim=1).mT, torch.cat([d_seen, asked], dim=1), out=dx)
    return torch.bmm(d_scores, x)


def _update_gradients(projection: Projection, full: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of each update's A and B, in turn, from that of the joint weight [2 · width, width]."""
    grads = []
    for update in projection.updates:
        part = full[update.rows] * update.scale
        grads += [torch.mm(update.B.to(part.dtype).t(), part), torch.mm(part, update.A.to(part.dtype).t())]
    return grads


def _by_head(weight: torch.Tensor, heads: int) -> torch.Tensor:
    return weight.view(heads, -1, weight.shape[1])


def _tokens(x: torch.Tensor, run: Run) -> torch.Tensor:
    return x[run.tokens].view(run.articles, run.length, -1)


def _scale(q: torch.Tensor) -> float:
    return 1.0 / math.sqrt(q.shape[-1])
