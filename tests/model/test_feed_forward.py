"""The network as one function is the modules one by one: up, GELU, down, and the residual."""

import peft
import pytest
import torch
from torch import nn
from torch.nn.functional import gelu

from newslora.model.feed_forward import feed_forward
from newslora.model.projection import Projection

WIDTH, INNER = 6, 10


class Block(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, INNER, bias=bias), nn.Linear(INNER, WIDTH, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(gelu(self.up(x)))


def adapted(targets: list[str], *, bias: bool = True, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    block = Block(bias).requires_grad_(False)
    if targets:
        config = peft.LoraConfig(r=2, lora_alpha=6, lora_dropout=dropout, target_modules=targets)
        block = peft.get_peft_model(block, config).base_model.model
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    return block.double()


def run(block: nn.Module, x: torch.Tensor, *, exact: bool = True) -> tuple[torch.Tensor, list[nn.Parameter]]:
    up, down = Projection([block.up]), Projection([block.down])
    return feed_forward(x, up, down, gelu, exact=exact), [*up.parameters, *down.parameters]


def example(tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("tokens", [1, 64, 65])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("targets", [["up"], ["down"], ["up", "down"]], ids=str)
def test_output_and_gradients_equal_those_of_the_modules(targets: list[str], bias: bool, tokens: int) -> None:
    block, x = adapted(targets, bias=bias), example(tokens)
    (ours, parameters), theirs = run(block, x), block(x)
    assert len(parameters) == 2 * len(targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradient = torch.randn(ours.shape, dtype=ours.dtype)
    pairs = zip(*(torch.autograd.grad(y, [x, *parameters], gradient) for y in (ours, theirs)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_frozen_network_passes_the_gradient_on() -> None:
    block, x = adapted([]), example(70)
    (gradient,), (expected,) = (torch.autograd.grad(y.square().sum(), x) for y in (run(block, x)[0], block(x)))
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-11)


def test_where_the_input_asks_for_no_gradient_the_parameters_still_get_theirs() -> None:
    block, x = adapted(["up", "down"]), example(70).detach()
    y, parameters = run(block, x)
    for a, b in zip(
        torch.autograd.grad(y.sum(), parameters), torch.autograd.grad(block(x).sum(), parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_without_gradients_it_is_the_same_in_the_inputs_place() -> None:
    block, x = adapted(["up", "down"]), example(200).detach()
    with torch.no_grad():
        expected = block(x)
        y, _ = run(block, x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert y.data_ptr() == x.data_ptr()


def test_with_gradients_the_input_is_left_alone() -> None:
    block, x = adapted(["up", "down"]), example(200).detach()
    before = x.clone()
    run(block, x)
    assert torch.equal(x, before)


def test_another_activation_goes_through_the_modules_one_by_one() -> None:
    block, x = adapted(["up", "down"]), example(70)
    up, down = Projection([block.up]), Projection([block.down])
    y = feed_forward(x, up, down, torch.relu, exact=False)
    torch.testing.assert_close(y, x + block.down(torch.relu(block.up(x))), rtol=1e-12, atol=1e-12)


def test_with_dropout_on_a_branch_it_is_drawn_as_peft_draws_it() -> None:
    block, x = adapted(["up", "down"], dropout=0.4), example(70)
    torch.manual_seed(4)
    ours, _ = run(block, x)
    torch.manual_seed(4)
    torch.testing.assert_close(ours, block(x), rtol=1e-12, atol=1e-12)
    block.eval()
    torch.testing.assert_close(run(block, x)[0], block(x), rtol=1e-12, atol=1e-12)


def test_under_autocast_it_runs_in_half_precision() -> None:
    block, x = adapted(["up", "down"]).float(), example(70).detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = run(block, x)
    assert y.dtype == torch.bfloat16
    expected = block(x)
    assert (y.float() - expected).norm() < 0.02 * expected.norm()
