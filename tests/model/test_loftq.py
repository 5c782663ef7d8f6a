"""LoftQ's start is the best low-rank approximation of what quantisation rounds off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model.conftest import ragged_articles, random_model

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.model.classifier import build_model, load_model, predict_logits
from newslora.model.quantized import QuantizedLinear
from newslora.model.residual import lora_layers

ROWS = ragged_articles([9, 4, 17, 30])


def settings(backbone: Path, kind: str = "nf4", **lora: Any) -> RunConfig:
    return RunConfig.from_dict(
        {
            "data": {"max_length": 64},
            "model": {"backbone": str(backbone), "quantization": kind},
            "lora": {"targets": ["all-linear"], "r": 3, "alpha": 12, "init": "loftq"} | lora,
        }
    )


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("lora", [{}, {"ranks": {"value": 5}}, {"scaling": "rslora"}])
def test_the_start_is_the_papers_equation(
    kind: str, lora: dict[str, Any], tiny_backbone: Callable[[str], Path]
) -> None:
    """Li et al. 2023, algorithm 1 with one step: A·B = SVD_r(W − Q), here with all of the scale in it."""
    model = build_model(settings(tiny_backbone("bert"), kind, **lora), ("a", "b"))
    full = build_model(settings(tiny_backbone("bert"), "none", init="default"), ("a", "b"))
    layers = zip(lora_layers(model), lora_layers(full), strict=True)
    for ours, plain in layers:
        base = ours.get_base_layer()
        lost = (plain.get_base_layer().weight - base.weight).detach().double().numpy()
        left, values, right = np.linalg.svd(lost, full_matrices=False)
        r = ours.r["default"]
        expected = left[:, :r] * values[:r] @ right[:r]
        np.testing.assert_allclose(ours.get_delta_weight("default").detach().numpy(), expected, atol=1e-6)
        assert values[0] > 1e-4
        assert base.rest is None


def test_it_starts_nearer_to_full_precision_and_comes_back(
    tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    many = {"r": 16, "alpha": 16}
    starts = {
        name: build_model(settings(tiny_backbone("bert"), kind, **many, init=init), ("a", "b")).eval()
        for name, kind, init in (("full", "none", "default"), ("zero", "nf4", "default"), ("loftq", "nf4", "loftq"))
    }
    with torch.no_grad():  # one head: the seed draws different ones, since the starts draw differently
        for model in starts.values():
            model.output_layer.weight.copy_(starts["full"].output_layer.weight)
    found = {name: predict_logits(model, ROWS) for name, model in starts.items()}
    off = {name: float(np.abs(logits - found["full"]).max()) for name, logits in found.items()}
    assert 0 < off["loftq"] < 0.8 * off["zero"]
    starts["loftq"].save_adapter(tmp_path / "adapter")
    torch.testing.assert_close(
        torch.from_numpy(predict_logits(load_model(tmp_path / "adapter"), ROWS)), torch.from_numpy(found["loftq"])
    )


def test_what_is_not_adapted_lets_go_too(tiny_backbone: Callable[[str], Path]) -> None:
    model = random_model(tiny_backbone("roberta"), lora={"init": "loftq"}, model={"quantization": "nf4"})
    kept = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    assert len(kept) > 2 * len(list(lora_layers(model)))
    assert all(module.rest is None for module in kept)


@pytest.mark.parametrize(
    ("kind", "lora", "message"),
    [
        ("none", {}, "lora.init: loftq starts from what quantisation rounds off; set model.quantization"),
        ("nf4", {"dora": True}, "lora.dora: takes its magnitudes before LoftQ's start"),
    ],
)
def test_where_it_cannot_start_it_says_so(
    kind: str, lora: dict[str, Any], message: str, tiny_backbone: Callable[[str], Path]
) -> None:
    with pytest.raises(NewsloraError, match=message):
        build_model(settings(tiny_backbone("bert"), kind, **lora), ("a", "b"))
