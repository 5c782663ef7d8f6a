from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from newslora.config import TrainConfig
from newslora.training.objective import (
    GCE_Q,
    Objective,
    add_l2_gradient,
    balanced_weights,
    generalised_cross_entropy,
    l2_term,
)

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


def test_generalised_cross_entropy_is_the_papers_formula() -> None:
    ours, labels = objective(loss="gce"), torch.tensor(LABELS)
    chosen = LOGITS.softmax(dim=1)[torch.arange(8), labels]  # equation 6: (1 - f_j(x)^q) / q
    torch.testing.assert_close(ours(LOGITS, labels), ((1 - chosen**GCE_Q) / GCE_Q).sum())


def test_its_gradient_is_cross_entropys_times_the_labels_probability_to_the_q() -> None:
    logits, labels = LOGITS.clone().requires_grad_(), torch.tensor(LABELS)
    [ours] = torch.autograd.grad(objective(loss="gce")(logits, labels), logits)
    [theirs] = torch.autograd.grad(nn.CrossEntropyLoss(reduction="sum")(logits, labels), logits)
    chosen = LOGITS.softmax(dim=1)[torch.arange(8), labels]
    torch.testing.assert_close(ours, theirs * chosen.unsqueeze(1) ** GCE_Q)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "class_weights": "balanced"}])
def test_it_becomes_cross_entropy_as_q_goes_to_nothing(settings: dict[str, Any]) -> None:
    labels, plain = torch.tensor(LABELS), objective(**settings)
    targets = objective(loss="gce", **settings)._targets(labels)
    torch.testing.assert_close(
        generalised_cross_entropy(LOGITS.double(), targets, q=1e-6).float(), plain(LOGITS, labels)
    )


def test_a_label_that_the_model_finds_impossible_pulls_least_and_stays_finite() -> None:
    logits = torch.tensor([[60.0, -60.0, 0.0]], requires_grad=True)
    loss = objective(loss="gce")(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(1 / GCE_Q)
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6
