from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.training.multilabel import MultiLabelObjective, check_multi_label, set_figures

KINDS = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
LABELS = torch.tensor([0, 2, 1, 0])


def test_the_loss_is_torchs_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, requires_grad=True)
    objective = MultiLabelObjective(KINDS, torch.device("cpu"))
    loss = objective(logits, LABELS) / objective.mass(np.arange(4))
    expected = nn.BCEWithLogitsLoss()(logits, torch.from_numpy(KINDS)[LABELS])
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_an_article_is_right_when_each_of_its_labels_is() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [-1.0, -1.0, -1.0], [1.0, 2.0, -3.0], [2.0, -1.0, -0.5]])
    assert int(MultiLabelObjective(KINDS, torch.device("cpu")).right(logits, LABELS)) == 2


def test_validation_figures_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0], [-2.0, 1.0], [1.0, 1.0]])
    truth = np.array([[1, 0], [1, 1], [0, 1]], dtype=np.float32)
    figures = set_figures(logits, truth)
    p = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    loss = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    # First label: one hit, one miss, one false alarm (F1 1/2); second: all three right (F1 1).
    assert figures == pytest.approx({"val_loss": loss, "val_accuracy": 1 / 3, "val_macro_f1": 0.75})


@pytest.mark.parametrize(
    ("section", "settings", "name"),
    [
        ("train", {"loss": "gce"}, "train.loss gce"),
        ("train", {"label_smoothing": 0.1}, "train.label_smoothing"),
        ("train", {"class_weights": "balanced"}, "train.class_weights"),
        ("lora", {"allocation": "gradient"}, "lora.allocation"),
        ("distill", {"teacher": "run"}, "distill.teacher"),
        ("distill", {"unlabelled": "a.csv"}, "distill.unlabelled"),
        ("data", {"drop": "audit.csv"}, "data.drop"),
    ],
)
def test_what_means_nothing_is_refused(section: str, settings: dict[str, Any], name: str) -> None:
    check_multi_label(RunConfig.from_dict({section: settings}))
    both = {"data": {"multi_label": True}} | {section: settings | ({"multi_label": True} if section == "data" else {})}
    with pytest.raises(NewsloraError, match=f"^{name}: is for one label an article; leave it out"):
        check_multi_label(RunConfig.from_dict(both))


def test_a_hierarchy_goes_with_several_labels_alone() -> None:
    with pytest.raises(NewsloraError, match=r"^data\.hierarchy: .*; set data\.multi_label$"):
        check_multi_label(RunConfig.from_dict({"data": {"hierarchy": "/"}}))
    check_multi_label(RunConfig.from_dict({"data": {"hierarchy": "/", "multi_label": True}}))
    with pytest.raises(NewsloraError, match=r"^data\.hierarchy: is data\.separator too"):
        check_multi_label(RunConfig.from_dict({"data": {"hierarchy": "|", "multi_label": True}}))
