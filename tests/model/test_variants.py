"""PiSSA, OLoRA, EVA and DoRA against a few lines of arithmetic from their papers, and saved as plain peft reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tests.model.conftest import WIDTH, ragged_articles, ragged_batch, random_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from newslora.config import RunConfig
from newslora.model.adapter import quiet
from newslora.model.backbone import quiet_transformers
from newslora.model.classifier import NewsModel, build_model, load_model, predict_logits
from newslora.model.eva import padded, start_from_inputs
from newslora.model.residual import lora_layers

NAMES = ("a", "b", "c")
ROWS = ragged_articles([9, 4, 17, 30, 2, 12])
STARTS = [{"init": "pissa"}, {"init": "olora"}, {"dora": True}, {"init": "pissa", "dora": True}]


def fresh(backbone: Path, **lora: Any) -> NewsModel:
    lora = {"r": 3, "alpha": 6, "targets": "all-linear"} | lora
    config = RunConfig.from_dict({"model": {"backbone": str(backbone), "head": "linear"}, "lora": lora})
    return build_model(config, NAMES).eval()


def weights(backbone: Path) -> dict[str, Tensor]:
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=3)
    return {name: module.weight.detach() for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def layers_by_name(model: NewsModel) -> dict[str, Any]:
    names = {id(module): name for name, module in model.plain.named_modules()}
    return {names[id(layer)]: layer for layer in lora_layers(model)}


@pytest.mark.parametrize("settings", [*STARTS, {"init": "eva"}])
def test_training_starts_from_the_backbone_itself(
    settings: dict[str, Any], tiny_backbone: Callable[[str], Path]
) -> None:
    started, plain = fresh(tiny_backbone("bert"), **settings), fresh(tiny_backbone("bert"))
    with torch.no_grad():
        for ours, theirs in zip(started.output_layer.parameters(), plain.output_layer.parameters(), strict=True):
            ours.copy_(theirs)
    expected = torch.tensor(predict_logits(plain, ROWS))
    torch.testing.assert_close(torch.tensor(predict_logits(started, ROWS)), expected, rtol=1e-4, atol=1e-4)


def test_pissa_takes_the_principal_part(tiny_backbone: Callable[[str], Path]) -> None:
    # Meng et al. 2024, equations 2 to 4: A B is U[:, :r] S[:r] V[:, :r]ᵀ, and the rest of W is frozen.
    before = weights(tiny_backbone("bert"))
    for name, layer in layers_by_name(fresh(tiny_backbone("bert"), init="pissa")).items():
        u, s, v = torch.linalg.svd(before[name], full_matrices=False)
        principal = u[:, :3] @ torch.diag(s[:3]) @ v[:3]
        update = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        torch.testing.assert_close(update.detach(), principal, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.base_layer.weight, before[name] - principal, rtol=1e-4, atol=1e-5)


def test_olora_takes_the_first_orthonormal_columns(tiny_backbone: Callable[[str], Path]) -> None:
    # Büyükakyüz 2024, algorithm 1: B = Q[:, :r], A = R[:r], W - s B A frozen.
    before = weights(tiny_backbone("bert"))
    for name, layer in layers_by_name(fresh(tiny_backbone("bert"), init="olora")).items():
        q, r = torch.linalg.qr(before[name])
        torch.testing.assert_close(layer.lora_B["default"].weight.detach(), q[:, :3])
        torch.testing.assert_close(layer.lora_A["default"].weight.detach(), r[:3])
        torch.testing.assert_close(layer.base_layer.weight, before[name] - 2.0 * q[:, :3] @ r[:3], rtol=1e-4, atol=1e-5)


def test_eva_spans_the_principal_directions_of_the_inputs(tiny_backbone: Callable[[str], Path]) -> None:
    # Paischer et al. 2024, section 3.2: A's rows are the first right singular vectors of the module's inputs.
    rows = ragged_articles([20] * 64, seed=3)
    model = fresh(tiny_backbone("bert"), init="eva", targets="query,output")
    start_from_inputs(model, rows, seed=0)
    seen: dict[str, Tensor] = {}
    layers = layers_by_name(model)
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].flatten(0, 1)))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        model.peft(**padded(model, rows, torch.arange(64).numpy()))
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        a = layer.lora_A["default"].weight
        torch.testing.assert_close(a @ a.T, torch.eye(3), rtol=0, atol=1e-4)
        inputs = seen[name] - seen[name].mean(dim=0)
        best = torch.linalg.svdvals(inputs)[:3].square().sum()
        assert (inputs @ a.T).square().sum() > 0.97 * best
        assert not layer.lora_B["default"].weight.any()


def test_dora_scales_each_rows_direction(tiny_backbone: Callable[[str], Path]) -> None:
    # Liu et al. 2024, equation 5: W' = m (W + s B A) / ||W + s B A||, a norm for each output.
    model = random_model(tiny_backbone("bert"), NAMES, lora={"r": 3, "alpha": 6, "dora": True, "targets": "query"})
    before = weights(tiny_backbone("bert"))
    x = torch.randn(7, WIDTH)
    for name, layer in layers_by_name(model).items():
        direction = before[name] + 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        magnitude = layer.lora_magnitude_vector["default"].weight
        weight = magnitude.unsqueeze(1) * direction / direction.norm(dim=1, keepdim=True)
        torch.testing.assert_close(layer(x), x @ weight.T + layer.base_layer.bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [*STARTS, {"init": "eva"}])
@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_packed_logits_and_gradients_are_those_of_the_stock_pass(
    kind: str, settings: dict[str, Any], tiny_backbone: Callable[[str], Path]
) -> None:
    lora = {"r": 3, "alpha": 6, "targets": "all-linear"} | settings
    batch, results = ragged_batch([9, 4, 17, 30]), []
    for engine in ("packed", "padded"):
        torch.manual_seed(4)
        model = random_model(tiny_backbone(kind), NAMES, lora=lora, train={"engine": engine})
        logits = model.train()(batch)
        nn.functional.cross_entropy(logits, batch.labels).backward()
        results.append((logits.detach(), [p.grad for p in model.trainable_parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [*STARTS, {"init": "eva"}])
@pytest.mark.parametrize("scaling", ["alpha/r", "rslora"])
def test_saved_and_loaded_by_us_and_by_plain_peft(
    settings: dict[str, Any], scaling: str, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    lora = {"r": 3, "alpha": 6, "targets": "all-linear", "ranks": {"value": 2}, "scaling": scaling} | settings
    model = random_model(tiny_backbone("bert"), NAMES, lora=lora)
    expected = torch.tensor(predict_logits(model, ROWS))
    model.save_adapter(tmp_path / "adapter")
    loaded = load_model(tmp_path / "adapter")
    torch.testing.assert_close(torch.tensor(predict_logits(loaded, ROWS)), expected, rtol=1e-4, atol=1e-4)
    with quiet(), quiet_transformers():
        plain = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
    inputs = padded(loaded, ROWS, torch.arange(len(ROWS)).numpy())
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
