from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from newslora.config import TrainConfig
from newslora.training.objective import Objective, add_l2_gradient, balanced_weights, l2_term

LABELS = [0, 0, 0, 0, 1, 2, 2, 0]
LOGITS = torch.randn(8, 3, generator=torch.Generator().manual_seed(3))


def objective(**settings: Any) -> Objective:
    return Objective(TrainConfig(**settings), LABELS, 3, torch.device("cpu"))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_sum_over_mass_is_torchs_mean(smoothing: float, weights: str) -> None:
    ours = objective(label_smoothing=smoothing, class_weights=weights)
    weight = torch.tensor([8 / (3 * 5), 8 / (3 * 1), 8 / (3 * 2)]) if weights == "balanced" else None
    theirs = nn.CrossEntropyLoss(weight, label_smoothing=smoothing)(LOGITS, torch.tensor(LABELS))
    torch.testing.assert_close(ours(LOGITS, torch.tensor(LABELS)) / ours.mass(np.arange(8)), theirs)


def test_parts_add_up_to_the_whole() -> None:
    ours, labels = objective(class_weights="balanced", label_smoothing=0.2), torch.tensor(LABELS)
    parts = ours(LOGITS[:3], labels[:3]) + ours(LOGITS[3:], labels[3:])
    torch.testing.assert_close(parts, ours(LOGITS, labels))
    assert ours.mass(np.arange(3)) + ours.mass(np.arange(3, 8)) == pytest.approx(ours.mass(np.arange(8)))


def test_a_class_without_rows_weighs_one() -> None:
    assert balanced_weights(np.array([0, 0, 2]), 3).tolist() == pytest.approx([0.75, 1.0, 1.5])


def test_half_precision_logits_are_widened() -> None:
    assert objective()(LOGITS.bfloat16(), torch.tensor(LABELS)).dtype is torch.float32


def test_l2_is_half_the_factor_times_the_squared_norm_and_its_gradient() -> None:
    parameters = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]
    term = 0.3 / 2 * torch.stack([p.square().sum() for p in parameters]).sum()
    assert l2_term(parameters, 0.3) == pytest.approx(term.item())
    expected = torch.autograd.grad(term, parameters)
    parameters[0].grad = torch.ones(3, 2)
    add_l2_gradient(parameters, 0.3)
    torch.testing.assert_close(parameters[0].grad, expected[0] + 1)
    torch.testing.assert_close(parameters[1].grad, expected[1])


def test_without_a_factor_there_is_no_l2() -> None:
    assert l2_term([nn.Parameter(torch.ones(2))], 0.0) == 0.0
