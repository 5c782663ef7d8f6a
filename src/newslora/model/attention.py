"""Softmax attention within each article of a concatenation, never across articles.

On a CPU, articles of equal length stand side by side (batches are grouped by length and sorted), and each such run is
one batched matrix product on exactly its own tokens: no padding, no mask. On CUDA in half precision PyTorch's
variable-length kernel does the same in one call.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch.autograd.function import FunctionCtx
from torch.nn.functional import softmax

from newslora.data.batches import Ends


@dataclass(frozen=True)
class Run:
    """Consecutive articles of one length.

    Attributes:
        start: Position of the first token.
        first: Position of the first article.
        articles: How many articles.
        length: Tokens of each.
    """

    start: int
    first: int
    articles: int
    length: int

    @property
    def tokens(self) -> slice:
        """The run's token positions."""
        return slice(self.start, self.start + self.articles * self.length)

    @property
    def rows(self) -> slice:
        """The run's article positions."""
        return slice(self.first, self.first + self.articles)


def runs_of(lengths: Sequence[int]) -> tuple[Run, ...]:
    """Return the runs of equal length in a concatenation of articles."""
    runs, start, first = [], 0, 0
    for length, group in groupby(lengths):
        articles = len(list(group))
        runs.append(Run(start, first, articles, length))
        start, first = start + articles * length, first + articles
    return tuple(runs)


def attend(
    qkv: torch.Tensor,
    lengths: Sequence[int],
    heads: int,
    *,
    dropout: float = 0.0,
    window: int | None = None,
    ends: Ends | None = None,
) -> torch.Tensor:
    """Self-attention of every token to its own article's tokens.

    Args:
        qkv: [tokens, 3 · width], queries, keys and values side by side.
        lengths: Tokens of each article.
        heads: Attention heads; width = heads · head size.
        dropout: Probability of dropping an attention weight.
        window: Greatest distance between two tokens that attend to each other, or None for any.
        ends: The lengths on a GPU, whose kernel then reads these.

    Returns:
        [tokens, width].
    """
    if _has_kernel(qkv, lengths, dropout, window):
        width, ends = qkv.shape[1] // 3, ends or Ends.of(lengths, qkv.device)
        return _varlen(qkv[:, :width], qkv[:, width:], ends, ends, heads)
    pattern = _Pattern(runs_of(lengths), heads, dropout, window)
    result: torch.Tensor = _Attention.apply(None, qkv, pattern)  # type: ignore[no-untyped-call]
    return result


def attend_first(
    q: torch.Tensor,
    kv: torch.Tensor,
    lengths: Sequence[int],
    heads: int,
    *,
    dropout: float = 0.0,
    window: int | None = None,
    ends: Ends | None = None,
) -> torch.Tensor:
    """Attention of every article's first token to its own article's tokens.

    Args:
        q: [articles, width], the first tokens' queries.
        kv: [tokens, 2 · width], keys and values side by side.
        lengths: Tokens of each article.
        heads: Attention heads; width = heads · head size.
        dropout: Probability of dropping an attention weight.
        window: Greatest distance of the tokens attended to, or None for any.
        ends: The lengths on a GPU, whose kernel then reads these.

    Returns:
        [articles, width].
    """
    if _has_kernel(kv, lengths, dropout, window):
        each = Ends(torch.arange(len(q) + 1, dtype=torch.int32, device=q.device), 1)
        return _varlen(q, kv, each, ends or Ends.of(lengths, kv.device), heads)
    pattern = _Pattern(runs_of(lengths), heads, dropout, window)
    result: torch.Tensor = _Attention.apply(q, kv, pattern)  # type: ignore[no-untyped-call]
    return result


def _has_kernel(x: torch.Tensor, lengths: Sequence[int], dropout: float, window: int | None) -> bool:
    sees_all = window is None or max(lengths) <= window + 1
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0 and sees_all


def _varlen(q: torch.Tensor, kv: torch.Tensor, q_ends: Ends, kv_ends: Ends, heads: int) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    size = q.shape[1] // heads
    q, k, v = (part.reshape(-1, heads, size) for part in (q, *kv.chunk(2, dim=1)))
    out: Any = varlen_attn(q, k, v, q_ends.positions, kv_ends.positions, q_ends.longest, kv_ends.longest)
    return out.reshape(-1, heads * size)  # type: ignore[no-any-return]


def _split(joint: torch.Tensor, run: Run, parts: int, heads: int) -> torch.Tensor:
    """Copy a run's tokens [tokens, parts · width] to [parts, articles · heads, length, size]."""
    view = joint[run.tokens].view(run.articles, run.length, parts, heads, -1)
    return view.permute(2, 0, 3, 1, 4).reshape(parts, run.articles * heads, run.length, -1)


def _join(parts: torch.Tensor, run: Run, heads: int, out: torch.Tensor) -> None:
    """Copy [parts, articles · heads, length, size] back to a run's tokens of ``out`` [tokens, parts · width]."""
    view = out[run.tokens].view(run.articles, run.length, len(parts), heads, -1)
    view.copy_(parts.view(len(parts), run.articles, heads, run.length, -1).permute(1, 3, 0, 2, 4))


def _split_first(rows: torch.Tensor, run: Run, heads: int) -> torch.Tensor:
    """View a run's rows [articles, width] as [articles · heads, 1, size]."""
    return rows[run.rows].reshape(run.articles * heads, 1, -1)


@dataclass(frozen=True)
class _Pattern:
    runs: tuple[Run, ...]
    heads: int
    dropout: float
    window: int | None


class _Context(FunctionCtx):
    """What the backward pass is left with: of each run its queries, keys and values, its weights, its dropout mask."""

    pattern: _Pattern
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Any, ...]


class _Attention(torch.autograd.Function):
    """With ``queries`` None, ``joint`` holds q, k and v; else it holds k and v, and there is a query an article."""

    @staticmethod
    def forward(ctx: _Context, queries: torch.Tensor | None, joint: torch.Tensor, pattern: _Pattern) -> torch.Tensor:
        heads, parts = pattern.heads, 3 if queries is None else 2
        rows = len(joint) if queries is None else len(queries)
        out = joint.new_empty((rows, joint.shape[1] // parts))
        saved: list[Any] = [queries]
        for run in pattern.runs:
            qkv = _split(joint, run, parts, heads)
            q = qkv[0] if queries is None else _split_first(queries, run, heads)
            weights = _weights(q, qkv[-2], pattern.window)
            mask = dropout_mask(weights, pattern.dropout) if pattern.dropout else None
            context = torch.bmm(weights if mask is None else weights * mask, qkv[-1])
            if queries is None:
                _join(context.unsqueeze(0), run, heads, out)
            else:
                out[run.rows] = context.view(run.articles, -1)
            saved += [qkv, weights, mask]
        ctx.pattern = pattern
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(*saved)
        return out

    @staticmethod
    def backward(ctx: _Context, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (queries, *saved) = gradients, ctx.saved_tensors
        heads, parts = ctx.pattern.heads, 3 if queries is None else 2
        tokens = sum(run.articles * run.length for run in ctx.pattern.runs)
        d_joint = gradient.new_empty((tokens, parts * gradient.shape[1]))
        d_queries = None if queries is None else torch.empty_like(queries)
        for i, run in enumerate(ctx.pattern.runs):
            qkv, weights, mask = saved[3 * i : 3 * i + 3]
            if d_queries is None:
                grads, _ = _run_backward(qkv[0], qkv, weights, mask, _split(gradient, run, 1, heads)[0])
            else:
                q, g = (_split_first(rows, run, heads) for rows in (queries, gradient))
                grads, dq = _run_backward(q, qkv, weights, mask, g)
                d_queries[run.rows] = dq.view(run.articles, -1)
            _join(grads, run, heads, d_joint)
        return d_queries, d_joint, None


def _weights(q: torch.Tensor, k: torch.Tensor, window: int | None) -> torch.Tensor:
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.mT, beta=0, alpha=_scale(q))
    if window is not None and k.shape[1] > window + 1:
        places = torch.arange(k.shape[1], device=q.device)
        far = (places[: q.shape[1], None] - places).abs() > window
        scores.masked_fill_(far, -torch.inf)
    return softmax(scores, dim=-1)


def _scale(q: torch.Tensor) -> float:
    return 1.0 / math.sqrt(q.shape[-1])


def dropout_mask(weights: torch.Tensor, dropout: float) -> torch.Tensor:
    """Return what to multiply attention weights with: 0 with probability ``dropout``, else 1 / (1 - dropout)."""
    return torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout)


def _run_backward(
    q: torch.Tensor, qkv: torch.Tensor, weights: torch.Tensor, mask: torch.Tensor | None, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of what stands side by side (keys and values, with or without queries), and of the queries.

    Args:
        q: [articles · heads, queries, size].
        qkv: [3 (or 2, without the queries), articles · heads, length, size].
        weights: [articles · heads, queries, length], after the softmax.
        mask: Dropout's mask on the weights, or None.
        gradient: Of the run's context, of the shape of ``q``.
    """
    grads = torch.empty_like(qkv)
    torch.bmm((weights if mask is None else weights * mask).mT, gradient, out=grads[-1])
    d_weights = torch.bmm(gradient, qkv[-1].mT)
    if mask is not None:
        d_weights.mul_(mask)
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(_scale(q))
    torch.bmm(d_scores.mT, q, out=grads[-2])
    dq = torch.bmm(d_scores, qkv[-2], out=grads[0]) if len(qkv) == 3 else torch.bmm(d_scores, qkv[-2])
    return grads, dq
