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
from torch.nn.functional import softmax


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
    qkv: torch.Tensor, lengths: Sequence[int], heads: int, dropout: float = 0.0, window: int | None = None
) -> torch.Tensor:
    """Self-attention of every token to its own article's tokens.

    Args:
        qkv: [tokens, 3 · width], queries, keys and values side by side.
        lengths: Tokens of each article.
        heads: Attention heads; width = heads · head size.
        dropout: Probability of dropping an attention weight.
        window: Greatest distance between two tokens that attend to each other, or None for any.

    Returns:
        [tokens, width].
    """
    if _has_kernel(qkv, lengths, dropout, window):
        q, k, v = qkv.chunk(3, dim=1)
        return _varlen(q, k, v, lengths, lengths, heads)
    result: torch.Tensor = _Attention.apply(None, qkv, lengths, heads, dropout, window)
    return result


def attend_first(
    q: torch.Tensor,
    kv: torch.Tensor,
    lengths: Sequence[int],
    heads: int,
    dropout: float = 0.0,
    window: int | None = None,
) -> torch.Tensor:
    """Attention of every article's first token to its own article's tokens.

    Args:
        q: [articles, width], the first tokens' queries.
        kv: [tokens, 2 · width], keys and values side by side.
        lengths: Tokens of each article.
        heads: Attention heads; width = heads · head size.
        dropout: Probability of dropping an attention weight.
        window: Greatest distance of the tokens attended to, or None for any.

    Returns:
        [articles, width].
    """
    if _has_kernel(kv, lengths, dropout, window):
        k, v = kv.chunk(2, dim=1)
        return _varlen(q, k, v, [1] * len(lengths), lengths, heads)
    result: torch.Tensor = _Attention.apply(q, kv, lengths, heads, dropout, window)
    return result


def _has_kernel(x: torch.Tensor, lengths: Sequence[int], dropout: float, window: int | None) -> bool:
    sees_all = window is None or max(lengths) <= window + 1
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0 and sees_all


def _varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_lengths: Sequence[int], k_lengths: Sequence[int], heads: int
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    size = q.shape[1] // heads
    ends_q, ends_k = (_ends(lengths, q.device) for lengths in (q_lengths, k_lengths))
    q, k, v = (part.reshape(-1, heads, size) for part in (q, k, v))
    out: Any = varlen_attn(q, k, v, ends_q, ends_k, max(q_lengths), max(k_lengths))
    return out.reshape(-1, heads * size)  # type: ignore[no-any-return]


def _ends(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    ends = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    ends[1:] = torch.tensor(lengths, dtype=torch.int32).cumsum(0)
    return ends.to(device, non_blocking=True)


def _split(joint: torch.Tensor, run: Run, parts: int, heads: int) -> torch.Tensor:
    """Copy a run's tokens [tokens, parts · width] to [parts, articles · heads, length, size]."""
    view = joint[run.tokens].view(run.articles, run.length, parts, heads, -1)
    return view.permute(2, 0, 3, 1, 4).reshape(parts, run.articles * heads, run.length, -1)


def _join(parts: torch.Tensor, run: Run, heads: int, out: torch.Tensor) -> None:
    """Copy [parts, articles · heads, length, size] back to a run's tokens of ``out`` [tokens, parts · width]."""
    view = out[run.tokens].view(run.articles, run.length, len(parts), heads, -1)
    view.copy_(parts.view(len(parts), run.articles, heads, run.length, -1).permute(1, 3, 0, 2, 4))


class _Attention(torch.autograd.Function):
    """With ``queries`` None, ``joint`` holds q, k and v; else it holds k and v, and there is a query an article."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        queries: torch.Tensor | None,
        joint: torch.Tensor,
        lengths: Sequence[int],
        heads: int,
        dropout: float,
        window: int | None,
    ) -> torch.Tensor:
        ctx.runs, ctx.heads, ctx.first = runs_of(lengths), heads, queries is not None
        width = joint.shape[1] // (2 if ctx.first else 3)
        ctx.scale = 1.0 / math.sqrt(width // heads)
        out = joint.new_empty((len(lengths) if ctx.first else joint.shape[0], width))
        saved = []
        for run in ctx.runs:
            qkv = _split(joint, run, 2 if ctx.first else 3, heads)
            k, v = qkv[-2], qkv[-1]
            q = queries[run.rows].reshape(run.articles * heads, 1, -1) if queries is not None else qkv[0]
            weights = _weights(q, k, ctx.scale, window)
            mask = torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
            context = torch.bmm(weights if mask is None else weights * mask, v)
            if ctx.first:
                out[run.rows] = context.view(run.articles, -1)
            else:
                _join(context.unsqueeze(0), run, heads, out)
            saved += [qkv, weights, mask]
        if any(ctx.needs_input_grad[:2]):
            ctx.save_for_backward(queries, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        queries, *saved = ctx.saved_tensors
        parts = 2 if ctx.first else 3
        joint = gradient.new_empty((sum(r.articles * r.length for r in ctx.runs), parts * gradient.shape[1]))
        d_queries = torch.empty_like(gradient) if ctx.first else None
        for i, run in enumerate(ctx.runs):
            qkv, weights, mask = saved[3 * i : 3 * i + 3]
            if d_queries is not None:
                q = queries[run.rows].reshape(run.articles * ctx.heads, 1, -1)
                g = gradient[run.rows].reshape(run.articles * ctx.heads, 1, -1)
            else:
                q, g = qkv[0], _split(gradient, run, 1, ctx.heads)[0]
            grads = torch.empty_like(qkv)
            dq = _run_backward(q, qkv[-2], qkv[-1], weights, mask, g, ctx.scale, grads)
            if d_queries is not None:
                d_queries[run.rows] = dq.view(run.articles, -1)
            _join(grads, run, ctx.heads, joint)
        return d_queries, joint, None, None, None, None


def _weights(q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> torch.Tensor:
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.mT, beta=0, alpha=scale)
    if window is not None and k.shape[1] > window + 1:
        places = torch.arange(k.shape[1], device=q.device)
        far = (places[: q.shape[1], None] - places).abs() > window
        scores.masked_fill_(far, -torch.inf)
    return softmax(scores, dim=-1)


def _run_backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    weights: torch.Tensor,
    mask: torch.Tensor | None,
    gradient: torch.Tensor,
    scale: float,
    grads: torch.Tensor,
) -> torch.Tensor:
    """Write the gradients of keys and values (and of queries, where ``grads`` has room) and return the queries'."""
    dropped = weights if mask is None else weights * mask
    torch.bmm(dropped.mT, gradient, out=grads[-1])
    d_weights = torch.bmm(gradient, v.mT)
    if mask is not None:
        d_weights.mul_(mask)
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(scale)
    torch.bmm(d_scores.mT, q, out=grads[-2])
    return torch.bmm(d_scores, k, out=grads[0]) if len(grads) == 3 else torch.bmm(d_scores, k)
