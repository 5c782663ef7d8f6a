"""A recorded pass gives what the plain one gives; on a machine without a GPU, all but the recording itself."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from newslora.config import RunConfig
from newslora.data.batches import Batch
from newslora.model.classifier import NewsModel, build_model
from newslora.training import recorded
from newslora.training.engine import start_accelerator
from newslora.training.objective import Objective
from newslora.training.recorded import PASSES, RecordedPasses, can_record, fill
from newslora.training.run_folder import RunFolder
from newslora.training.schedule import build_optimizer

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CLASSES = 3
CPU = torch.device("cpu")


def config_of(backbone: Path, **settings: Any) -> RunConfig:
    tree = {"model": {"backbone": str(backbone)}, "lora": {"targets": "all-linear", "r": 4}, "data": {"max_length": 16}}
    return RunConfig.from_dict(tree | settings)


def model_of(config: RunConfig) -> NewsModel:
    model = build_model(config, ("a", "b", "c")).train()
    with torch.no_grad():  # B starts at zero, which would leave the gradient of A at zero too
        for parameter in model.trainable_parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.fixture
def config(news_backbone: Path) -> RunConfig:
    return config_of(news_backbone)


@pytest.fixture
def model(config: RunConfig) -> NewsModel:
    return model_of(config)


def batch_of(lengths: list[int], seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 60, (sum(lengths),), generator=draw)
    labels = torch.randint(CLASSES, (len(lengths),), generator=draw)
    return Batch(ids, tuple(lengths), tuple(range(len(lengths))), labels)


def objective_of(config: RunConfig, device: torch.device) -> Objective:
    return Objective(config.train, [0, 1, 2, 0], CLASSES, device)


def plain(model: NewsModel, batch: Batch, mass: float) -> torch.Tensor:
    """Return the gradients, the loss and how many are right, of the batch as it is, in fp32."""
    model.zero_grad(set_to_none=True)
    logits = model(batch)
    loss = cross_entropy(logits, batch.labels, reduction="sum")
    (loss / mass).backward()
    gradients = [p.grad.flatten() for p in model.trainable_parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat([*gradients, loss.detach().view(1), (logits.argmax(1) == batch.labels).sum().view(1)])


class Stored:
    """Stands for a CUDA graph: computes again from what lies in the places that it was recorded from."""

    made = 0

    def __init__(self, run: Any, numbers: torch.Tensor, scale: torch.Tensor, result: torch.Tensor) -> None:
        type(self).made += 1
        self.again, self.result = lambda: run(numbers, scale), result

    def replay(self) -> None:
        self.result.copy_(self.again())


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(run: Any, numbers: torch.Tensor, scale: torch.Tensor, other: Any, held: Any) -> Any:
        numbers, scale, result = numbers.clone(), scale.clone(), run(numbers, scale)
        return recorded._Recording(Stored(run, numbers, scale, result), numbers, scale, result, held())  # type: ignore[arg-type]

    monkeypatch.setattr(Stored, "made", 0)
    monkeypatch.setattr(recorded, "_record", record)
    monkeypatch.setattr(recorded, "send", lambda tensor, device: tensor)


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 31, 32])
def test_a_filled_batch_is_a_whole_multiple_and_the_same_articles(tokens: int) -> None:
    batch = batch_of([tokens])
    filled = fill(batch, 16)
    assert len(filled.input_ids) == sum(filled.lengths) == 16 * (tokens // 16 + 1)
    assert filled.lengths[:-1] == batch.lengths
    assert 1 <= filled.lengths[-1] <= 16
    assert torch.equal(filled.input_ids[:tokens], batch.input_ids)
    assert filled.labels is batch.labels


@pytest.mark.parametrize("lengths", [[16, 16], [14, 9, 9, 3], [1]])
def test_a_filled_pass_has_the_gradients_and_figures_of_the_batch(
    model: NewsModel, config: RunConfig, without_gpu: None, lengths: list[int]
) -> None:
    batch = batch_of(lengths)
    passes = RecordedPasses(model, objective_of(config, CPU), nullcontext, CPU)
    torch.testing.assert_close(passes(batch, 7.0), plain(model, batch, 7.0), rtol=1e-4, atol=1e-5)


def test_a_shape_is_recorded_once_and_replayed_on_the_batch_and_the_weights_of_the_day(
    model: NewsModel, config: RunConfig, without_gpu: None
) -> None:
    passes = RecordedPasses(model, objective_of(config, CPU), nullcontext, CPU)
    for number in range(PASSES + 5):
        batch, mass = batch_of([11, 5], seed=number), 2.0 + number
        torch.testing.assert_close(passes(batch, mass), plain(model, batch, mass), rtol=1e-4, atol=1e-5)
        assert Stored.made == int(number >= PASSES)
        with torch.no_grad():
            for parameter in model.trainable_parameters():
                parameter.mul_(1.01)
    passes(batch_of([11, 5, 4]), 2.0)
    assert Stored.made == 1


def test_what_a_pass_returned_is_not_written_over_by_the_next(
    model: NewsModel, config: RunConfig, without_gpu: None
) -> None:
    passes = RecordedPasses(model, objective_of(config, CPU), nullcontext, CPU)
    for _ in range(PASSES):
        passes(batch_of([11, 5]), 2.0)
    first = passes(batch_of([11, 5]), 2.0)
    kept = first.clone()
    assert not torch.equal(passes(batch_of([11, 5], seed=1), 2.0), first)
    assert torch.equal(first, kept)


def test_weights_folded_before_a_replay_are_not_trusted_after_it(
    model: NewsModel, config: RunConfig, without_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replay(*_: object) -> torch.Tensor:  # a graph's, of which nothing in Python hears
        return torch.zeros(1)

    monkeypatch.setattr(recorded, "_record", lambda *_: replay)
    batch, optimizer = batch_of([11, 5]), build_optimizer(model.trainable_parameters(), config.train)
    passes = RecordedPasses(model, objective_of(config, CPU), nullcontext, CPU)
    for _ in range(PASSES):
        passes(batch, 2.0)
    with torch.no_grad():
        before = model(batch)
    for parameter in model.trainable_parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # the fused one, which leaves no mark on what it changes
    assert torch.equal(passes(batch, 2.0), torch.zeros(1))
    with torch.no_grad():
        assert not torch.allclose(model(batch), before)
        torch.testing.assert_close(model(batch), model._padded(batch), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_recorded_is_told_of_once_and_runs_as_before(
    model: NewsModel, config: RunConfig, without_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(recorded, "_record", fail)
    passes = RecordedPasses(model, objective_of(config, CPU), nullcontext, CPU)
    batch = batch_of([11, 5])
    for _ in range(PASSES):
        passes(batch, 2.0)
    with pytest.warns(UserWarning, match=r"without CUDA graphs, .* \(operation not permitted .* capturing\)$"):
        last = passes(batch, 2.0)
    torch.testing.assert_close(last, plain(model, batch, 2.0), rtol=1e-4, atol=1e-5)
    passes(batch, 2.0)  # says nothing more: a warning would be an error here


class Device:
    """Stands for an Accelerator."""

    def __init__(self, kind: str = "cuda", precision: str = "bf16") -> None:
        self.device, self.mixed_precision = torch.device(kind), precision


def test_passes_that_are_the_same_every_time_can_be_recorded(news_backbone: Path, model: NewsModel) -> None:
    able: Any = Device()
    assert can_record(model, able)
    for other in (Device("cpu"), Device(precision="no"), Device(precision="fp16")):
        assert not can_record(model, other)  # type: ignore[arg-type]
    settings: list[dict[str, Any]] = [
        {"lora": {"dropout": 0.1}},
        {"model": {"backbone": str(news_backbone), "dropout": 0.1}},
        {"model": {"backbone": str(news_backbone), "quantization": "int8"}},
        {"train": {"engine": "padded"}},
    ]
    for tree in settings:
        assert not can_record(model_of(config_of(news_backbone, **tree)), able)


@GPU
def test_on_a_gpu_a_recorded_pass_is_the_pass_of_the_batch(config: RunConfig, tmp_path: Path) -> None:
    device, model = torch.device("cuda"), model_of(config).cuda()
    accelerator = start_accelerator(config.train.model_copy(update={"precision": "bf16"}), RunFolder(tmp_path))
    assert can_record(model, accelerator)
    passes = RecordedPasses(model, objective_of(config, device), accelerator.autocast, device)
    optimizer = build_optimizer(model.trainable_parameters(), config.train)
    draw = np.random.default_rng(0)
    for number in range(3 * PASSES):
        lengths = sorted(draw.integers(8, 10, 8).tolist(), reverse=True)
        batch = batch_of(lengths, seed=number)
        found, exact = passes(batch, 8.0), plain(model, batch.to(device), 8.0)
        assert found[-2].item() == pytest.approx(exact[-2].item(), rel=0.05)
        gradients, true = found[:-2], exact[:-2]
        assert torch.linalg.vector_norm(gradients - true) < 0.1 * torch.linalg.vector_norm(true)
        for parameter, part in zip(
            model.trainable_parameters(), true.split([p.numel() for p in model.trainable_parameters()]), strict=True
        ):
            parameter.grad = part.view_as(parameter)
        optimizer.step()
    assert passes._recordings


@GPU
def test_on_a_gpu_replaying_gives_what_recording_replaced(config: RunConfig, tmp_path: Path) -> None:
    device, model, batch = torch.device("cuda"), model_of(config).cuda(), batch_of([11, 9, 5])
    accelerator = start_accelerator(config.train.model_copy(update={"precision": "bf16"}), RunFolder(tmp_path))
    passes = RecordedPasses(model, objective_of(config, device), accelerator.autocast, device)
    before = passes(batch, 3.0)
    for number in range(PASSES + 2):
        passes(batch_of([8, 8, 9], seed=number), 3.0)
    assert passes._recordings
    torch.testing.assert_close(passes(batch, 3.0), before, rtol=0.02, atol=0.02 * before[:-2].abs().max().item())
