"""The folded product is peft's three products, forwards and backwards, and follows the optimiser."""

from collections.abc import Callable, Sequence

import peft
import pytest
import torch
from torch import nn

from newslora.model.projection import Projection, compute_dtype

WIDTH, OUT, TOKENS = 5, (4, 3, 6), 7


class Trio(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, out, bias=bias) for out in OUT)


def adapted(
    targets: str, *, bias: bool = True, dropout: float = 0.0, dtype: torch.dtype = torch.float64
) -> list[nn.Module]:
    """Return three linear modules, those in ``targets`` with peft's LoRA of rank 2, scaling 3 and random A and B."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=6, lora_dropout=dropout, target_modules=list(targets))
    model = peft.get_peft_model(Trio(bias), config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return [getattr(model.base_model.model, name) for name in "qkv"]


def by_peft(modules: Sequence[nn.Module], x: torch.Tensor) -> torch.Tensor:
    return torch.cat([module(x) for module in modules], dim=-1)


def example(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, residual = (torch.randn(TOKENS, n, generator=generator, dtype=dtype) for n in (WIDTH, sum(OUT)))
    return x.requires_grad_(), residual.requires_grad_()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("targets", ["q", "qv", "v", "qkv"])
def test_output_and_gradients_equal_pefts(targets: str, bias: bool) -> None:
    modules = adapted(targets, bias=bias)
    projection = Projection(modules)
    assert len(projection.parameters) == 2 * len(targets)
    x, residual = example()
    folded, plain = projection(x, residual), by_peft(modules, x) + residual
    torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-12)
    gradient = torch.randn(folded.shape, dtype=folded.dtype)
    inputs = [x, residual, *projection.parameters]
    for ours, theirs in zip(
        torch.autograd.grad(folded, inputs, gradient), torch.autograd.grad(plain, inputs, gradient), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_gradients_pass_a_finite_difference_check() -> None:
    projection = Projection(adapted("qv"))
    x, residual = example()
    matrices = projection.parameters

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for parameter, value in zip(matrices, inputs[2:], strict=True):
                if parameter is not value:
                    parameter.copy_(value)
        return projection(inputs[0], inputs[1])

    assert torch.autograd.gradcheck(run, (x, residual, *matrices))


def test_frozen_modules_alone_are_one_product_without_a_graph() -> None:
    modules = [nn.Linear(WIDTH, out).double().requires_grad_(False) for out in OUT]
    for chosen in (modules, modules[:1]):
        projection = Projection(chosen)
        x = example()[0].detach()
        y = projection(x)
        torch.testing.assert_close(y, by_peft(chosen, x), rtol=1e-12, atol=1e-12)
        assert projection.parameters == []
        assert not y.requires_grad


MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMISERS = pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.5),
        lambda p: torch.optim.AdamW(p, lr=0.5, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=0.5, fused=True),
    ],
    ids=["sgd", "foreach", "fused"],
)


@OPTIMISERS
@pytest.mark.parametrize("evaluated", [True, False])
def test_every_optimiser_step_is_folded_in(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], evaluated: bool
) -> None:
    modules = adapted("qkv")
    projection = Projection(modules)
    optimizer = make(projection.parameters)
    x, _ = example()
    for _ in range(3):
        before = projection(x)
        before.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if evaluated:
            with torch.no_grad():
                torch.testing.assert_close(projection(x), by_peft(modules, x), rtol=1e-11, atol=1e-11)
        after = projection(x)
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, by_peft(modules, x), rtol=1e-11, atol=1e-11)


@OPTIMISERS
def test_steps_taken_with_dropout_are_folded_in_for_the_evaluation(make: MakeOptimizer) -> None:
    modules = adapted("qv", dropout=0.3)
    projection, x = Projection(modules), example()[0]
    optimizer = make(projection.parameters)
    results = []
    for _ in range(3):
        for module in modules:
            module.train()
        projection(x).square().mean().backward()
        optimizer.step()
        for module in modules:
            module.eval()
        with torch.no_grad():
            results.append(projection(x))
            torch.testing.assert_close(results[-1], by_peft(modules, x), rtol=1e-11, atol=1e-11)
    assert not torch.allclose(results[0], results[-1])


def test_steps_taken_with_dropout_are_folded_in_at_every_evaluation() -> None:
    modules, x = adapted("qkv", dropout=0.2), example()[0]
    projection = Projection(modules)
    optimizer = torch.optim.AdamW(projection.parameters, lr=0.5, fused=True)
    for _ in range(3):
        for module in modules:
            module.train()
        projection(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        for module in modules:
            module.eval()
        with torch.no_grad():
            torch.testing.assert_close(projection(x), by_peft(modules, x), rtol=1e-11, atol=1e-11)


def test_weights_loaded_after_an_evaluation_are_folded_in() -> None:
    modules, x = adapted("qv"), example()[0]
    projection = Projection(modules)
    with torch.no_grad():
        projection(x)
        for module in (modules[0], modules[2]):
            module.load_state_dict(
                {key: value + 1 for key, value in module.state_dict().items() if "lora_" in key}, strict=False
            )
        torch.testing.assert_close(projection(x), by_peft(modules, x), rtol=1e-11, atol=1e-11)


def test_in_evaluation_the_fold_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    projection, x = Projection(adapted("qv")), example()[0]
    folds = []
    addmm = torch.addmm

    def counting(*given: torch.Tensor, **named: float) -> torch.Tensor:
        if "alpha" in named:  # the update's scale; the product itself has none
            folds.append(1)
        return addmm(*given, **named)

    monkeypatch.setattr(torch, "addmm", counting)
    with torch.no_grad():
        first = projection(x)
        assert len(folds) == 2
        assert torch.equal(projection(x), first)
        assert len(folds) == 2


@pytest.mark.parametrize("targets", ["q", "qv"])
def test_with_dropout_the_branch_drops_inputs_as_peft_does(targets: str) -> None:
    modules = adapted(targets, dropout=0.4)
    projection = Projection(modules)
    x, residual = example()
    assert projection.drops
    torch.manual_seed(5)
    ours = projection(x, residual)
    torch.manual_seed(5)
    theirs = by_peft(modules, x) + residual  # draws its masks in the same order
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    inputs = [x, residual, *projection.parameters]
    for a, b in zip(torch.autograd.grad(ours.sum(), inputs), torch.autograd.grad(theirs.sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_in_evaluation_dropout_is_off() -> None:
    modules = [module.eval() for module in adapted("qv", dropout=0.4)]
    projection, x = Projection(modules), example()[0]
    assert not projection.drops
    torch.testing.assert_close(projection(x), by_peft(modules, x), rtol=1e-12, atol=1e-12)


def test_under_autocast_the_product_runs_in_its_type_and_gradients_come_back_in_the_parameters() -> None:
    modules = adapted("qv", dtype=torch.float32)
    projection = Projection(modules)
    x, residual = example(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compute_dtype(x) == torch.bfloat16
        y = projection(x, residual)
    assert y.dtype == torch.bfloat16
    plain = by_peft(modules, x) + residual
    torch.testing.assert_close(y.float(), plain, rtol=0.03, atol=0.15)
    for tensor, ours, theirs in zip(
        inputs := [x, residual, *projection.parameters],
        torch.autograd.grad(y.float().sum(), inputs),
        torch.autograd.grad(plain.sum(), inputs),
        strict=True,
    ):
        assert ours.dtype == tensor.dtype
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.3)
    torch.testing.assert_close(projection(x, residual), plain)  # and back in full precision afterwards
