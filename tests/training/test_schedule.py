import math
import sys
from typing import Any

import pytest
import torch
from torch import nn

from newslora.config import TrainConfig
from newslora.errors import NewsloraError
from newslora.training.schedule import build_optimizer, learning_rate


def rates(steps: int = 100, **settings: Any) -> list[float]:
    rate = learning_rate(TrainConfig(lr=2.0, **settings), steps)
    return [rate(step) for step in range(steps)]


def test_warmup_rises_linearly_from_zero() -> None:
    for schedule in ("cosine", "linear", "constant", "cosine-restarts"):
        assert rates(warmup=0.1, schedule=schedule)[:11] == pytest.approx([0.2 * step for step in range(11)])


def test_cosine_is_half_a_cosine() -> None:
    expected = [1 + math.cos(math.pi * step / 100) for step in range(100)]
    assert rates(warmup=0.0, schedule="cosine") == pytest.approx(expected)


def test_linear_falls_to_zero_and_constant_stays() -> None:
    assert rates(warmup=0.0, schedule="linear") == pytest.approx([2 - step / 50 for step in range(100)])
    assert rates(warmup=0.0, schedule="constant") == [2.0] * 100


def test_restarts_follow_sgdr() -> None:
    # Loshchilov & Hutter 2017, eq. 5, least rate 0, cycles of 25 steps: half of lr (1 + cos(pi T_cur / T_i)).
    expected = [1 + math.cos(math.pi * (step % 25) / 25) for step in range(100)]
    assert rates(warmup=0.0, schedule="cosine-restarts", restarts=4) == pytest.approx(expected)


def test_restarts_divide_what_warmup_leaves() -> None:
    expected = [1 + math.cos(math.pi * (step % 30) / 30) for step in range(90)]
    assert rates(warmup=0.1, schedule="cosine-restarts", restarts=3)[10:] == pytest.approx(expected)


def test_vectors_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = build_optimizer(model.parameters(), TrainConfig(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for was, now in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), was * (0.95 if was.ndim > 1 else 1.0))


def test_adamw_is_the_published_update() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = build_optimizer([parameter], TrainConfig(lr=0.1, weight_decay=0.01))
    parameter.grad = torch.tensor([[0.5, -3.0]])
    optimizer.step()
    # First step: both moments' bias corrections cancel, so each entry moves by lr against the gradient's sign.
    torch.testing.assert_close(parameter.detach(), torch.tensor([[1 * 0.999 - 0.1, -2 * 0.999 + 0.1]]))


def dynamic_map(signed: bool) -> torch.Tensor:
    """Dettmers et al. 2022, section 1.2: 7 decades, each with twice the fractions of the one below, and 0 and 1."""
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (exponent + (not signed)) + 1)
        fractions = (10.0 ** (exponent - 6) * (edges[:-1] + edges[1:]) / 2).tolist()
        values += fractions + ([-fraction for fraction in fractions] if signed else [])
    return torch.tensor(sorted(values))


def rounded(moment: torch.Tensor, signed: bool) -> torch.Tensor:
    """A moment after a trip through 8 bits, in blocks of 256 scaled by their absmax."""
    blocks, values = moment.view(-1, 256), dynamic_map(signed)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    nearest = ((blocks / absmax).unsqueeze(-1) - values).abs().argmin(dim=-1)
    return (values[nearest] * absmax).view_as(moment)


def test_eight_bit_adamw_is_adamw_on_rounded_moments() -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(64, 128))
    optimizer = build_optimizer([parameter], TrainConfig(optimizer="adamw8bit", lr=0.01, weight_decay=0.1))
    weight, m, v = parameter.detach().clone(), torch.zeros(64, 128), torch.zeros(64, 128)
    for step in (1, 2):
        gradient = parameter.grad = torch.randn(64, 128)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        m_hat, v_hat = m / (1 - 0.9**step), v / (1 - 0.999**step)
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * m_hat / (v_hat.sqrt() + 1e-8)
        # All but a few: the library finds the nearest code by a table, which on a CPU now and then gives its neighbour.
        assert torch.isclose(parameter.detach(), weight, rtol=1e-5, atol=1e-6).float().mean() > 0.98
        m, v = rounded(m, signed=True), rounded(v, signed=False)
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8


def test_eight_bit_moments_without_the_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(NewsloraError, match=r"train\.optimizer: adamw8bit needs bitsandbytes; install newslora\[quant"):
        build_optimizer([nn.Parameter(torch.ones(2, 2))], TrainConfig(optimizer="adamw8bit"))


def test_lora_plus_moves_b_faster_by_its_ratio() -> None:
    # Hayou et al. 2024, section 4: one learning rate for A and λ times as much for B; all else takes A's.
    a, b, bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(4))
    config = TrainConfig(lr=0.01, weight_decay=0.0, b_lr_ratio=8)
    optimizer = build_optimizer([a, b, bias], config, b_matrices=[b])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3
    for parameter in (a, b, bias):
        parameter.grad = torch.full_like(parameter, 0.3)
    optimizer.step()
    # AdamW's first step moves each entry by its learning rate.
    for parameter, moved in ((a, 0.01), (b, 0.08), (bias, 0.01)):
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 1 - moved))


def test_without_a_ratio_b_is_in_no_group_of_its_own() -> None:
    b = nn.Parameter(torch.ones(4, 2))
    [group] = build_optimizer([b], TrainConfig(), b_matrices=[b]).param_groups
    assert group["rate"] == 1.0
