from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TinyModel, make_config, make_data
from torch.nn import functional

from newslora.data.batches import make_batch
from newslora.training.engine import start_accelerator
from newslora.training.run_folder import RunFolder
from newslora.training.schedule import build_optimizer
from newslora.training.snapshot import trainable_tensors
from newslora.training.stepping import Stepper

DATA = make_data()
ROWS = np.arange(24)


def take_step(batches: list[np.ndarray], tmp_path: Path, **settings: Any) -> tuple[TinyModel, list[float], float]:
    model, config = TinyModel(dropout=0.0), make_config(**settings).train
    optimizer = build_optimizer(model.trainable_parameters(), config)
    accelerator = start_accelerator(config, RunFolder(tmp_path))
    result = Stepper(accelerator, model, optimizer, config, DATA)(batches, lr=0.03)  # type: ignore[arg-type]
    assert result.rows.tolist() == np.concatenate(batches).tolist()
    return model, result.figures.tolist(), result.mass


def test_a_step_is_the_textbook_step(tmp_path: Path) -> None:
    model, figures, mass = take_step([ROWS], tmp_path, l2=0.2, clip=0.05)
    other = TinyModel(dropout=0.0)
    optimizer = build_optimizer(other.trainable_parameters(), make_config().train)
    batch = make_batch(DATA.train.encoded, ROWS, DATA.train.labels)
    logits = other(batch)
    loss = functional.cross_entropy(logits, batch.labels)
    penalty = 0.1 * torch.stack([p.square().sum() for p in other.trainable_parameters()]).sum()
    (loss + penalty).backward()
    norm = torch.nn.utils.clip_grad_norm_(other.trainable_parameters(), 0.05)
    for group in optimizer.param_groups:
        group["lr"] = 0.03
    optimizer.step()
    torch.testing.assert_close(trainable_tensors(model), trainable_tensors(other))
    correct = int((logits.argmax(-1) == batch.labels).sum())
    assert mass == 24
    assert figures == pytest.approx([loss.item() * 24, correct, 0, 0, norm.item()], rel=1e-5)


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_however_a_step_is_cut_its_gradient_is_that_of_the_whole(tmp_path: Path, weights: str) -> None:
    whole = take_step([ROWS], tmp_path, class_weights=weights, label_smoothing=0.1)
    parts = take_step([ROWS[:3], ROWS[3:17], ROWS[17:]], tmp_path, class_weights=weights, label_smoothing=0.1)
    torch.testing.assert_close(trainable_tensors(parts[0]), trainable_tensors(whole[0]), atol=1e-5, rtol=1e-4)
    assert parts[1] == pytest.approx(whole[1], rel=1e-4)
    assert parts[2] == pytest.approx(whole[2])


def test_without_clipping_no_norm_is_taken(tmp_path: Path) -> None:
    assert take_step([ROWS], tmp_path, clip=None)[1][4] == 0.0


def test_frozen_tensors_and_gradients_are_left_clean(tmp_path: Path) -> None:
    model, _, _ = take_step([ROWS], tmp_path)
    assert torch.equal(model.embedding.weight, TinyModel().embedding.weight)
    assert all(p.grad is None for p in model.parameters())


def test_bf16_runs_close_to_fp32(tmp_path: Path) -> None:
    half, full = (take_step([ROWS], tmp_path, precision=p)[1][0] for p in ("bf16", "fp32"))
    assert half != full
    assert half == pytest.approx(full, rel=0.02)
