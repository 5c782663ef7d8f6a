from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TinyModel, make_config, make_data
from torch.nn import functional

from newslora.data.batches import make_batch
from newslora.errors import NewsloraError
from newslora.training.engine import start_accelerator
from newslora.training.run_folder import RunFolder
from newslora.training.schedule import build_optimizer
from newslora.training.snapshot import trainable_tensors
from newslora.training.stepping import Stepper, diverged

DATA = make_data()
ROWS = np.arange(24)


def take_step(
    batches: list[np.ndarray], tmp_path: Path, kind: type[TinyModel] = TinyModel, **settings: Any
) -> tuple[TinyModel, list[float], float]:
    model, config = kind(dropout=0.0), make_config(**settings).train
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
    assert figures == pytest.approx([loss.item() * 24, correct, 0, 0, norm.item(), 0], rel=1e-5)


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_however_a_step_is_cut_its_gradient_is_that_of_the_whole(tmp_path: Path, weights: str) -> None:
    whole = take_step([ROWS], tmp_path, class_weights=weights, label_smoothing=0.1)
    parts = take_step([ROWS[:3], ROWS[3:17], ROWS[17:]], tmp_path, class_weights=weights, label_smoothing=0.1)
    torch.testing.assert_close(trainable_tensors(parts[0]), trainable_tensors(whole[0]), atol=1e-5, rtol=1e-4)
    assert parts[1] == pytest.approx(whole[1], rel=1e-4)
    assert parts[2] == pytest.approx(whole[2])


class Recordable(TinyModel):
    """Takes batches that are filled up to whole multiples of so many tokens."""

    max_length = 8


@pytest.mark.parametrize("batches", [[ROWS], [ROWS[:3], ROWS[3:17], ROWS[17:]]])
def test_recorded_passes_take_the_same_step(
    tmp_path: Path, batches: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"class_weights": "balanced", "label_smoothing": 0.1, "l2": 0.2}
    plain = take_step(batches, tmp_path, **settings)
    monkeypatch.setattr("newslora.training.stepping.can_record", lambda *_: True)
    monkeypatch.setattr("newslora.training.recorded.send", lambda tensor, device: tensor)
    recorded = take_step(batches, tmp_path, Recordable, **settings)
    torch.testing.assert_close(trainable_tensors(recorded[0]), trainable_tensors(plain[0]), atol=1e-5, rtol=1e-4)
    assert recorded[1] == pytest.approx(plain[1], rel=1e-4)


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


class SmallMemory(TinyModel):
    """Has room for ten articles at a time; what is more fails in the forward or in the midst of the backward pass."""

    backward = False
    passes: list[int]

    def forward(self, batch: Any) -> torch.Tensor:
        self.passes = [*getattr(self, "passes", []), len(batch.rows)]
        logits = super().forward(batch)
        if len(batch.rows) > 10:
            if not self.backward:
                raise torch.OutOfMemoryError("CUDA out of memory")
            logits.register_hook(self._fail)
        return logits

    def _fail(self, gradient: torch.Tensor) -> None:
        # By then the output layer's gradient may stand, as on a GPU.
        self.out.bias.grad = torch.full_like(self.out.bias, 100.0)
        raise torch.OutOfMemoryError("CUDA out of memory")


class SmallMemoryBackward(SmallMemory):
    backward = True


@pytest.mark.parametrize("kind", [SmallMemory, SmallMemoryBackward])
@pytest.mark.parametrize("batches", [[ROWS], [ROWS[:5], ROWS[5:]]])
def test_out_of_memory_halves_a_batch_and_leaves_its_gradient(
    tmp_path: Path, kind: type[SmallMemory], batches: list[np.ndarray]
) -> None:
    settings = {"class_weights": "balanced", "label_smoothing": 0.1}
    whole = take_step(batches, tmp_path, **settings)
    halved = take_step(batches, tmp_path, kind, **settings)
    torch.testing.assert_close(trainable_tensors(halved[0]), trainable_tensors(whole[0]), atol=1e-5, rtol=1e-4)
    assert halved[1] == pytest.approx(whole[1], rel=1e-4)
    model = halved[0]
    assert isinstance(model, SmallMemory)
    assert max(model.passes) == max(len(batch) for batch in batches)
    assert sum(size for size in model.passes if size <= 10) == 24


def test_what_ran_out_of_memory_once_is_not_tried_again(tmp_path: Path) -> None:
    model, config = SmallMemory(dropout=0.0), make_config().train
    optimizer = build_optimizer(model.trainable_parameters(), config)
    stepper = Stepper(start_accelerator(config, RunFolder(tmp_path)), model, optimizer, config, DATA)  # type: ignore[arg-type]
    stepper([ROWS], lr=0.03)
    tried = len(model.passes)
    stepper([ROWS], lr=0.03)
    assert max(model.passes[tried:]) <= 10


def test_one_article_too_large_is_named(tmp_path: Path) -> None:
    class NoMemory(TinyModel):
        def forward(self, batch: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(
        NewsloraError, match=r"^news\.csv:2: the device's memory does not suffice for one article of \d+ tok"
    ):
        take_step([ROWS], tmp_path, NoMemory)


@pytest.mark.parametrize(
    ("loss", "norm", "problem"),
    [
        (99.0, 1e9, None),
        (float("nan"), 1.0, "the loss is not finite"),
        (1.0, float("inf"), "the gradient is not finite"),
        (123.4, 1.0, "the loss is 123.4, above train.greatest_loss"),
    ],
)
def test_what_counts_as_diverged(loss: float, norm: float, problem: str | None) -> None:
    assert diverged(loss, norm, 100.0) == problem


class Exploding(TinyModel):
    def forward(self, batch: Any) -> torch.Tensor:
        return super().forward(batch) * 1e6


def test_a_step_that_diverges_is_left_out_when_that_is_wished(tmp_path: Path) -> None:
    model, figures, _ = take_step([ROWS], tmp_path, Exploding, on_divergence="skip")
    assert figures[5] == 1.0
    torch.testing.assert_close(trainable_tensors(model), trainable_tensors(Exploding()), rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    assert take_step([ROWS], tmp_path, Exploding)[1][5] == 0.0


def test_a_step_sets_each_groups_own_rate(tmp_path: Path) -> None:
    model, config = TinyModel(dropout=0.0), make_config(b_lr_ratio=4).train
    optimizer = build_optimizer(model.trainable_parameters(), config, [model.hidden.weight])
    accelerator = start_accelerator(config, RunFolder(tmp_path))
    Stepper(accelerator, model, optimizer, config, DATA)([ROWS], lr=0.03)  # type: ignore[arg-type]
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.03, 0.03, 0.12])
