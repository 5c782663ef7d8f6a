"""Without keys and values of its own, attention of first tokens is the attention that makes them."""

import peft
import pytest
import torch
from torch import nn

from newslora.model.attention import attend_first
from newslora.model.first_token import attend_absorbed, can_absorb
from newslora.model.projection import Projection

HEADS, WIDTH = 2, 6
RAGGED = [[5], [1], [7, 7, 4, 1, 1], [3, 9, 3, 2]]


class Pair(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.k, self.v = nn.Linear(WIDTH, WIDTH, bias=bias), nn.Linear(WIDTH, WIDTH, bias=bias)


def keys_values(targets: str, *, bias: bool = True, dropout: float = 0.0) -> Projection:
    """Return both linear modules, those in ``targets`` with peft's LoRA of rank 2, all numbers random."""
    torch.manual_seed(0)
    model: nn.Module = Pair(bias)
    if targets:
        config = peft.LoraConfig(r=2, lora_alpha=6, lora_dropout=dropout, target_modules=list(targets))
        model = peft.get_peft_model(model, config).base_model.model
    for parameter in model.double().parameters():
        nn.init.normal_(parameter)
    return Projection([model.k, model.v])


def inputs(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = (len(lengths), sum(lengths))
    q, x = (torch.randn(n, WIDTH, generator=generator, dtype=torch.float64).requires_grad_() for n in rows)
    return q, x


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("targets", ["", "k", "v", "kv"])
@pytest.mark.parametrize("lengths", RAGGED, ids=str)
def test_output_and_gradients_are_those_with_keys_and_values(
    lengths: list[int], targets: str, bias: bool, dropout: float
) -> None:
    projection, (q, x) = keys_values(targets, bias=bias), inputs(lengths)
    torch.manual_seed(2)
    ours = attend_absorbed(q, x, projection, lengths, HEADS, dropout=dropout)
    torch.manual_seed(2)  # the same mask
    theirs = attend_first(q, projection(x), lengths, HEADS, dropout=dropout)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    gradient, wanted = torch.randn(ours.shape, dtype=ours.dtype), [q, x, *projection.parameters]
    assert len(wanted) == 2 + 2 * len(targets)
    for a, b in zip(*(torch.autograd.grad(out, wanted, gradient) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_gradients_pass_a_finite_difference_check() -> None:
    lengths, projection = [4, 2, 2], keys_values("kv")
    q, x = inputs(lengths)
    # The matrices are changed in place behind autograd's back, so each pass folds them anew.
    assert torch.autograd.gradcheck(
        lambda q, x, *_: attend_absorbed(q, x, projection, lengths, HEADS), (q, x, *projection.parameters)
    )


def test_where_updates_cannot_be_folded_keys_and_values_are_made() -> None:
    x = torch.zeros(3, WIDTH, dtype=torch.float64)
    assert can_absorb(x, keys_values("kv"))
    assert not can_absorb(x, keys_values("kv", dropout=0.1))
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_absorb(x, keys_values("kv"))
    assert not can_absorb(x.to("meta"), keys_values("kv"))
