from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from tiny import NAMES, TinyModel, make_split
from torch.nn import functional

from newslora.config import TrainConfig
from newslora.data.batches import make_batch
from newslora.evaluation.metrics import measure
from newslora.training.engine import start_accelerator
from newslora.training.run_folder import RunFolder
from newslora.training.validation import validate


def test_figures_are_those_of_one_big_batch(tmp_path: Path) -> None:
    model, split, calls = TinyModel(dropout=0.9), make_split(1500, 4), []
    accelerator = start_accelerator(TrainConfig(), RunFolder(tmp_path))
    figures = validate(model, split, 3, accelerator, lambda: calls.append(1))  # type: ignore[arg-type]
    batch = make_batch(split.encoded, range(1500), split.labels)
    assert batch.labels is not None
    logits = model(batch).detach()
    guesses = logits.argmax(-1)
    assert not model.training
    assert figures["val_loss"] == pytest.approx(functional.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    assert figures["val_accuracy"] == pytest.approx((guesses == batch.labels).float().mean().item())
    assert figures["val_macro_f1"] == pytest.approx(f1_score(batch.labels, guesses, average="macro"))
    assert len(calls) > 1


def test_macro_f1_is_that_of_an_evaluation(tmp_path: Path) -> None:
    model, split = TinyModel(), make_split(40, 4)
    with torch.no_grad():
        model.out.bias[2] = -100.0
    rows = [row for row, label in enumerate(split.labels) if label != 2]  # no label, no guess: the class does not count
    split = split.take(np.array(rows))
    accelerator = start_accelerator(TrainConfig(), RunFolder(tmp_path))
    figures = validate(model, split, 3, accelerator, lambda: None)  # type: ignore[arg-type]
    batch = make_batch(split.encoded, range(len(rows)), split.labels)
    assert batch.labels is not None
    results = measure(model(batch).detach().softmax(-1).numpy(), batch.labels.numpy(), NAMES)
    assert figures["val_macro_f1"] == pytest.approx(results["macro_f1"], abs=1e-12)
    assert results["macro_f1"] == pytest.approx(sum(results["per_class"][name]["f1"] for name in NAMES[:2]) / 2)


def test_a_class_without_hits_counts_zero(tmp_path: Path) -> None:
    model, split = TinyModel(), make_split(40, 4)
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    accelerator = start_accelerator(TrainConfig(), RunFolder(tmp_path))
    figures = validate(model, split, 3, accelerator, lambda: None)  # type: ignore[arg-type]
    share = split.labels.count(1) / 40
    assert figures["val_macro_f1"] == pytest.approx(2 * share / (1 + share) / 3)
