"""The packed pass computes what the padded pass of transformers and peft computes, gradients included."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.conftest import ragged_batch
from torch.nn.functional import cross_entropy

from newslora.config import RunConfig
from newslora.data.batches import Batch, Ends
from newslora.model import attention, first_token, modernbert, packed, projection
from newslora.model.classifier import NewsModel, build_model
from newslora.model.families import FAMILIES

PACKED = [kind for kind, family in FAMILIES.items() if family.style]
RAGGED = [1, 1, 2, 3, 5, 5, 5, 17, 18, 33, 64, 90, 127, 128, 128]


def model_of(backbone: Path, **lora: object) -> NewsModel:
    return start_away({"lora": {"r": 4, "targets": "all-linear", **lora}, "model": {"backbone": str(backbone)}})


def start_away(settings: dict[str, Any]) -> NewsModel:
    settings["model"]["head"] = "full"
    model = build_model(RunConfig.from_dict(settings), ("a", "b", "c"))
    with torch.no_grad():  # B starts at zero, which would leave the gradient of A at zero too
        for parameter in model.trainable_parameters():
            parameter.normal_(std=0.2)
    return model


def gradients(
    model: NewsModel, run: Callable[..., torch.Tensor], lengths: list[int]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    batch = ragged_batch(lengths)
    logits = run(batch)
    cross_entropy(logits, batch.labels).backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("lora", [{}, {"targets": "query,value"}, {"layers": "1-2", "scaling": "rslora"}], ids=str)
def test_logits_and_every_gradient_equal_the_padded_pass(
    kind: str, lora: dict[str, str], tiny_backbone: Callable[[str], Path]
) -> None:
    model = model_of(tiny_backbone(kind), **lora).double()
    packed, packed_gradients = gradients(model, model, RAGGED)
    padded, padded_gradients = gradients(model, model._padded, RAGGED)
    assert padded.std(dim=0).min() > 0.05  # articles do differ
    torch.testing.assert_close(packed, padded, rtol=1e-9, atol=1e-10)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(packed_gradients) == set(padded_gradients) == trainable
    for name in trainable:
        torch.testing.assert_close(packed_gradients[name], padded_gradients[name], rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("lengths", [RAGGED, [7] * 12], ids=["ragged", "even"])
def test_on_a_gpu_both_precisions_come_near_the_padded_pass(
    kind: str, lengths: list[int], tiny_backbone: Callable[[str], Path]
) -> None:
    model, device = model_of(tiny_backbone(kind)), torch.device("cuda")
    exact, exact_gradients = gradients(model, model._padded, lengths)
    model.to(device)

    def half(batch: Batch) -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return model(batch.to(device)).float().cpu()

    for run, bound in ((lambda batch: model(batch.to(device)).cpu(), 1e-3), (half, 0.1)):
        logits, found = gradients(model, run, lengths)
        assert distance(logits, exact) < bound
        assert all(distance(found[name].cpu(), exact_gradients[name]) < bound for name in exact_gradients)


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))


def test_a_batch_that_knows_its_ends_on_the_device_gives_positions_and_starts_alike() -> None:
    batch = ragged_batch(RAGGED)
    ends = Ends(torch.tensor([*batch.starts(), sum(RAGGED)], dtype=torch.int32), 200)
    for offset in (0, 2):
        assert torch.equal(packed.positions_of(replace(batch, ends=ends), offset), packed.positions_of(batch, offset))
    assert torch.equal(packed.starts_of(replace(batch, ends=ends)), packed.starts_of(batch))


def test_another_activation_than_the_usual_is_taken_from_the_configuration(
    tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_backbone("bert"), tmp_path / "bert"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    batch = ragged_batch([9, 4])
    model, usual = (model_of(path).double().eval() for path in (folder, tiny_backbone("bert")))
    torch.testing.assert_close(model(batch), model._padded(batch), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(model(batch), usual(batch), rtol=1e-3)


@pytest.mark.parametrize("kind", PACKED)
def test_an_article_is_the_same_alone_and_in_company(kind: str, tiny_backbone: Callable[[str], Path]) -> None:
    model = model_of(tiny_backbone(kind)).eval()
    batch = ragged_batch([9, 9, 30, 4])
    together = model(batch)
    pieces = batch.input_ids.split(list(batch.lengths))
    for row, ids in enumerate(pieces):
        alone = model(type(batch)(ids, (len(ids),), (0,)))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)


def reproducible(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Stands for dropout: says where, and with what probability, without a draw."""
    return x * (1 + p) if training else x


@pytest.fixture
def no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch.nn.functional, packed, modernbert, projection):
        monkeypatch.setattr(module, "dropout", reproducible)
    for module in (attention, first_token):
        monkeypatch.setattr(module, "dropout_mask", lambda weights, p: torch.full_like(weights, 1 + p))


@pytest.mark.usefixtures("no_draws")
@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize(("training", "of_updates"), [(True, 0.05), (True, 0.0), (False, 0.05)])
def test_dropout_stands_where_it_stands_in_the_padded_pass(
    kind: str, training: bool, of_updates: float, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_backbone(kind), tmp_path / kind))
    config = json.loads((folder / "config.json").read_text())
    names = [name for name, value in config.items() if "dropout" in name and isinstance(value, int | float)]
    config |= {name: 0.1 + 0.1 * place for place, name in enumerate(names)}  # each its own
    (folder / "config.json").write_text(json.dumps(config))
    lora = {"r": 4, "targets": "all-linear", "dropout": of_updates}
    model = start_away({"lora": lora, "model": {"backbone": str(folder), "dropout": None}}).double()
    model.plain.set_attn_implementation("eager")  # the other's dropout cannot be replaced
    lengths = [7, 7, 5, 1]
    without, _ = gradients(model.eval(), model, lengths)
    packed_logits, packed_gradients = gradients(model.train(training), model, lengths)
    padded_logits, padded_gradients = gradients(model, model._padded, lengths)
    assert len(names) > 1
    assert torch.equal(packed_logits, without) != training
    # ModernBERT's stock softmax is in single precision.
    torch.testing.assert_close(packed_logits, padded_logits, rtol=1e-4, atol=1e-6)
    for name, gradient in padded_gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_with_dropout_the_mean_over_draws_approaches_the_pass_without(
    kind: str, tiny_backbone: Callable[[str], Path]
) -> None:
    settings = {
        "lora": {"r": 4, "dropout": 0.05},
        "model": {"backbone": str(tiny_backbone(kind)), "dropout": 0.02},
    }
    model = build_model(RunConfig.from_dict(settings), ("a", "b", "c"))
    batch = ragged_batch([12, 12, 20])
    draws = torch.stack([model.train()(batch) for _ in range(300)])
    assert draws.std(dim=0).min() > 0
    spread = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - model.eval()(batch)).abs() < 6 * spread + 0.05).all()


def test_frozen_layers_below_the_first_lora_layer_build_no_graph(tiny_backbone: Callable[[str], Path]) -> None:
    model = model_of(tiny_backbone("roberta"), layers="2")
    batch = ragged_batch([5, 7])
    below = model.encoder.layers_from(model.encoder.embed(batch), batch, 0, 2)
    assert not below.requires_grad
