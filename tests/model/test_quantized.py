"""A quantised backbone computes with exactly its dequantised weights, and what is trained on it stays float."""

import logging
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from scipy.stats import norm
from tests.model.conftest import ragged_articles, ragged_batch, random_model
from torch import nn

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.model.adapter import quiet
from newslora.model.budget import Planner
from newslora.model.classifier import NewsModel, build_model, load_model, predict_logits
from newslora.model.eva import padded, start_from_inputs
from newslora.model.families import FAMILIES, linear_modules
from newslora.model.merged import merge
from newslora.model.projection import Projection
from newslora.model.quantized import BLOCK, Kind, QuantizedLinear, dequantize, hidden_parameters, quantize
from newslora.model.shared import SharedBackbone

KINDS: tuple[Kind, ...] = ("int8", "nf4")
ROWS = ragged_articles([9, 4, 17, 30])
ALL = {"targets": ["all-linear"], "r": 2}


def directly(weight: np.ndarray, kind: Kind) -> np.ndarray:
    """The papers' equations: what a weight [out, in] quantises and dequantises to."""
    if kind == "int8":  # LLM.int8(), section 2: a row's scale is its absmax / 127
        scale = np.abs(weight).max(axis=1, keepdims=True) / 127
        return np.round(weight / scale) * scale
    blocks = np.pad(weight.ravel(), (0, -weight.size % BLOCK)).reshape(-1, BLOCK)
    absmax = np.abs(blocks).max(axis=1, keepdims=True)
    nearest = np.abs((blocks / absmax)[..., None] - normal_floats()).argmin(axis=-1)
    return (normal_floats()[nearest] * absmax).ravel()[: weight.size].reshape(weight.shape)


def normal_floats() -> np.ndarray:
    """QLoRA, section 3: 8 quantiles of the normal distribution above 0, 7 below, and 0, scaled to [-1, 1]."""
    end = 1 - (1 / 32 + 1 / 30) / 2
    above, below = norm.ppf(np.linspace(end, 0.5, 9)[:-1]), -norm.ppf(np.linspace(end, 0.5, 8)[:-1])
    return np.sort(np.concatenate([above, below, [0.0]])) / above.max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6, 64), (5, 30), (128, 96)])
def test_a_weight_comes_back_as_the_papers_equations_have_it(kind: Kind, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(shape[1], shape[0])
    quantized = QuantizedLinear(linear, kind)
    expected = torch.tensor(directly(linear.weight.detach().double().numpy(), kind), dtype=torch.float32)
    torch.testing.assert_close(quantized.weight, expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(quantized.weight, linear.weight)
    bits = {"int8": 8, "nf4": 4}[kind] * linear.weight.numel()
    assert quantized.get_buffer("codes").nbytes == bits // 8
    x = torch.randn(3, 7, shape[1], requires_grad=True)
    torch.testing.assert_close(quantized(x), nn.functional.linear(x, expected, linear.bias))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_and_gradients_are_those_of_the_dequantised_weights(
    family: str, kind: Kind, tiny_backbone: Callable[[str], Path]
) -> None:
    model = random_model(tiny_backbone(family), lora=ALL, model={"quantization": kind})
    plain = deepcopy(model)
    dequantize(plain)
    other = NewsModel(plain.peft, plain.tokenizer, plain.names, plain.identity, plain.max_length)
    full = random_model(tiny_backbone(family), lora=ALL)
    batch = ragged_batch([9, 17, 4, 9])
    ours, theirs, exact = model(batch), other(batch), full(batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert (ours - exact).abs().max() > 1e-3  # it is quantised
    for logits in (ours, theirs):
        logits.square().sum().backward()
    for mine, its in zip(model.trainable_parameters(), other.trainable_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_are_quantised_and_neither_head_nor_lora(family: str, tiny_backbone: Callable[[str], Path]) -> None:
    """transformers #24037: where the head is quantised with the rest, its training comes to nothing."""
    model = random_model(tiny_backbone(family), lora=ALL, model={"quantization": "nf4", "head": "full"})
    found = {
        name.removesuffix(".base_layer")
        for name, module in model.plain.named_modules()
        if isinstance(module, QuantizedLinear)
    }
    plain = build_model(RunConfig.from_dict({"model": {"backbone": str(tiny_backbone(family))}}), ("a", "b")).plain
    assert found == set(linear_modules(plain, FAMILIES[family], ["all-linear"], None))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert type(model.output_layer) is nn.Linear
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert any("head" in name or "classifier" in name for name in before)
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.1)
    model(ragged_batch([9, 17, 4])).square().sum().backward()
    optimizer.step()
    still = [name for name, p in model.named_parameters() if name in before and torch.equal(p, before[name])]
    assert not still


@pytest.mark.parametrize(("engine", "dropout"), [("packed", 0.0), ("packed", 0.1), ("padded", 0.0)])
def test_no_weight_is_kept_whole(engine: str, dropout: float, tiny_backbone: Callable[[str], Path]) -> None:
    sections: dict[str, Any] = {"model": {"quantization": "nf4"}, "train": {"engine": engine}}
    model = random_model(tiny_backbone("bert"), lora=ALL | {"dropout": dropout}, **sections).train()
    inner = {(32, 32), (64, 32), (32, 64), (96, 32), (64, 32)}  # of the layers' weights, alone and joined
    kept: list[torch.Size] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(ragged_batch([9, 17, 4])).square().sum()
    loss.backward()
    assert kept
    head = [(32, 32)]  # the pooler's weight, which is trained
    assert [tuple(shape) for shape in kept if tuple(shape) in inner] in ([], head)
    for layer in model.encoder.layers if model.encoder is not None else ():
        assert not [p for p in vars(layer).values() if isinstance(p, Projection) and p._weight is not None]


def test_parameters_are_counted_as_in_full_precision(tiny_backbone: Callable[[str], Path]) -> None:
    full, quantized = (random_model(tiny_backbone("bert"), model={"quantization": k}) for k in ("none", "int8"))
    assert quantized.counts() == full.counts()
    assert hidden_parameters(quantized) == 3 * (4 * 32 * 32 + 2 * 32 * 64)
    config = RunConfig.from_dict({"model": {"quantization": "int8"}})
    planned = Planner(deepcopy(full.plain.config), 3, "bert").settings(config.lora, config.model.head)
    assert planned.trainable == quantized.counts().trainable


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_comes_back_on_a_quantised_backbone(
    kind: Kind, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    model = random_model(tiny_backbone("roberta"), lora=ALL, model={"quantization": kind})
    model.save_adapter(tmp_path / "adapter")
    loaded = load_model(tmp_path / "adapter")
    assert hidden_parameters(loaded) > 0
    expected = predict_logits(model, ROWS)
    np.testing.assert_array_equal(predict_logits(loaded, ROWS), expected)
    with quiet():
        plain = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
    with torch.no_grad():
        logits = plain(**padded(model, ROWS, np.arange(len(ROWS)))).logits
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_merged_model_has_the_dequantised_weights(tiny_backbone: Callable[[str], Path]) -> None:
    model = random_model(tiny_backbone("bert"), lora=ALL, model={"quantization": "nf4"})
    merged = merge(model)
    assert not hidden_parameters(merged)
    with torch.no_grad():
        logits = merged(**padded(model, ROWS, np.arange(len(ROWS)))).logits
    np.testing.assert_allclose(logits.numpy(), predict_logits(model, ROWS), rtol=1e-4, atol=1e-4)
    assert hidden_parameters(model) > 0


def test_served_together_on_one_quantised_backbone(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    for number, kind in enumerate(("nf4", "nf4", "int8")):
        random_model(tiny_backbone("bert"), lora=ALL, model={"quantization": kind}).save_adapter(tmp_path / str(number))
    shared = SharedBackbone(tmp_path / "0")
    adapters = [shared.load(tmp_path / name) for name in "01"]
    for name, logits in zip("01", shared.logits([(adapter, ROWS) for adapter in adapters]), strict=True):
        assert logits == pytest.approx(predict_logits(load_model(tmp_path / name), ROWS), abs=1e-5)
    codes = [next(m for m in a.model.modules() if isinstance(m, QuantizedLinear)).get_buffer("codes") for a in adapters]
    assert codes[0].data_ptr() == codes[1].data_ptr()
    with pytest.raises(NewsloraError, match=r"is on backbone .*int8, the others on .*nf4; serve it by itself"):
        shared.load(tmp_path / "2")


def test_dora_and_eva_work_on_it(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    model = random_model(tiny_backbone("bert"), lora=ALL | {"dora": True, "init": "eva"}, model={"quantization": "nf4"})
    start_from_inputs(model, ROWS, 0)
    expected = predict_logits(model, ROWS)
    model.save_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(predict_logits(load_model(tmp_path / "adapter"), ROWS), expected, atol=1e-6)
    with torch.no_grad():
        logits = merge(model)(**padded(model, ROWS, np.arange(len(ROWS)))).logits
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_from_the_weights_is_refused(init: str, tiny_backbone: Callable[[str], Path]) -> None:
    model = {"quantization": "nf4", "backbone": str(tiny_backbone("bert"))}
    config = RunConfig.from_dict({"model": model, "lora": {"init": init}})
    with pytest.raises(NewsloraError, match=rf"lora\.init: {init} changes the backbone's weights, which model\.quant"):
        build_model(config, ("a", "b"))


def test_without_the_library_it_is_refused(
    tiny_backbone: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(tiny_backbone("bert"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(NewsloraError, match=r"model\.quantization: nf4 needs bitsandbytes; install newslora\[quant"):
        quantize(model.plain, FAMILIES["bert"], "nf4")


def test_a_kernel_that_bitsandbytes_misses_is_not_told_at_import() -> None:
    """On processors with bfloat16 products it would be, on standard error of every command."""
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
