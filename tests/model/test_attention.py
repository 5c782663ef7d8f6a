"""Attention over a concatenation is PyTorch's own attention, article by article."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from newslora.model.attention import Run, attend, attend_first, runs_of

HEADS, SIZE = 2, 3
WIDTH = HEADS * SIZE
RAGGED = [[5], [1], [7, 7, 4, 1, 1], [3, 9, 3, 2]]  # sorted or not: both are allowed


def tokens(lengths: list[int], parts: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(lengths), parts * WIDTH, generator=generator, dtype=torch.float64).requires_grad_()


def by_torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
    """Attention of one article: q [queries, width], k and v [length, width]."""
    far = (torch.arange(len(q))[:, None] - torch.arange(len(k))).abs() > (len(k) if window is None else window)
    mask = torch.zeros(far.shape, dtype=q.dtype).masked_fill(far, -torch.inf)
    q, k, v = (part.view(-1, HEADS, SIZE).transpose(0, 1) for part in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1).reshape(-1, WIDTH)


def self_attention(qkv: torch.Tensor, lengths: list[int], window: int | None) -> torch.Tensor:
    return torch.cat([by_torch(*article.chunk(3, dim=1), window) for article in qkv.split(lengths)])


def first_attention(q: torch.Tensor, kv: torch.Tensor, lengths: list[int], window: int | None) -> torch.Tensor:
    pairs = zip(q.split(1), kv.split(lengths), strict=True)
    return torch.cat([by_torch(row, *article.chunk(2, dim=1), window) for row, article in pairs])


@pytest.mark.parametrize("window", [None, 0, 1, 3, 50])
@pytest.mark.parametrize("lengths", RAGGED, ids=str)
def test_every_token_attends_within_its_article(lengths: list[int], window: int | None) -> None:
    qkv = tokens(lengths, 3)
    ours, theirs = attend(qkv, lengths, HEADS, window=window), self_attention(qkv, lengths, window)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradient = torch.randn(ours.shape, dtype=ours.dtype)
    a, b = (torch.autograd.grad(out, qkv, gradient)[0] for out in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("lengths", RAGGED, ids=str)
def test_first_tokens_attend_within_their_article(lengths: list[int], window: int | None) -> None:
    q, kv = tokens([1] * len(lengths), 1, seed=1), tokens(lengths, 2)
    ours, theirs = attend_first(q, kv, lengths, HEADS, window=window), first_attention(q, kv, lengths, window)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradient = torch.randn(ours.shape, dtype=ours.dtype)
    ours_grads, theirs_grads = (torch.autograd.grad(out, (q, kv), gradient) for out in (ours, theirs))
    for a, b in zip(ours_grads, theirs_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("window", [None, 1])
def test_gradients_pass_a_finite_difference_check(window: int | None) -> None:
    lengths = [4, 2, 2]
    assert torch.autograd.gradcheck(lambda x: attend(x, lengths, HEADS, window=window), tokens(lengths, 3))
    assert torch.autograd.gradcheck(
        lambda q, kv: attend_first(q, kv, lengths, HEADS, window=window), (tokens([1] * 3, 1), tokens(lengths, 2))
    )


def test_gradients_with_dropout_are_those_of_the_mask_drawn() -> None:
    lengths = [4, 2, 2]

    def same_mask(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return attend(x, lengths, HEADS, dropout=0.4)

    qkv = tokens(lengths, 3)
    assert not torch.allclose(same_mask(qkv), attend(qkv, lengths, HEADS))
    assert torch.autograd.gradcheck(same_mask, qkv)


def test_dropout_keeps_the_mean() -> None:
    lengths = [6, 6]
    qkv = tokens(lengths, 3).detach()
    draws = torch.stack([attend(qkv, lengths, HEADS, dropout=0.2) for _ in range(2000)])
    error = (draws.mean(dim=0) - attend(qkv, lengths, HEADS)).abs()
    assert (error < 5 * draws.std(dim=0) / 2000**0.5).all()


def test_an_article_is_deaf_to_its_neighbours() -> None:
    lengths = [3, 4]
    qkv = tokens(lengths, 3).detach()
    changed = qkv.clone()
    changed[3:] += 100
    assert torch.equal(attend(qkv, lengths, HEADS)[:3], attend(changed, lengths, HEADS)[:3])


def test_only_what_asks_for_a_gradient_gets_one() -> None:
    lengths = [3, 2]
    q, kv = tokens([1, 1], 1), tokens(lengths, 2)
    attend_first(q, kv.detach(), lengths, HEADS).sum().backward()
    assert q.grad is not None
    assert not attend(tokens(lengths, 3).detach(), lengths, HEADS).requires_grad


def test_runs_of_equal_lengths() -> None:
    assert runs_of([5, 5, 3, 5]) == (Run(0, 0, 2, 5), Run(10, 2, 1, 3), Run(13, 3, 1, 5))
    assert runs_of([]) == ()


@given(st.lists(st.integers(1, 9), max_size=40))
def test_runs_cover_all_tokens_and_articles_once_in_order(lengths: list[int]) -> None:
    runs = runs_of(lengths)
    assert [run.length for run in runs for _ in range(run.articles)] == lengths
    assert [i for run in runs for i in range(run.tokens.start, run.tokens.stop)] == list(range(sum(lengths)))
    assert [i for run in runs for i in range(run.rows.start, run.rows.stop)] == list(range(len(lengths)))
    assert all(a.length != b.length for a, b in pairwise(runs))
