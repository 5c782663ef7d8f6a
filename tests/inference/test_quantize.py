from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.inference.test_graph import LENGTHS, backbones, run, write
from tests.model.conftest import ragged_articles, random_model

from newslora.inference.onnx_model import pad
from newslora.inference.quantize import LEVELS, quantize, round_weight

__all__ = ["backbones"]


def one_product(file: Path, weight: np.ndarray) -> Path:
    """Write a graph of a single product, [articles, tokens, in] to [articles, tokens, out]."""
    axes = ["articles", "tokens"]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [*axes, weight.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [*axes, weight.shape[1]])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "one", [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(file))
    return file


def test_a_product_is_the_papers_equation(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(48, 7)).astype(np.float32)
    weight[:, 3] = 0
    x = (draw.normal(size=(3, 5, 48)) * draw.uniform(0.01, 30, size=(3, 5, 1))).astype(np.float32)
    x[1, 2] = 0
    quantize(one_product(tmp_path / "exact.onnx", weight), tmp_path / "model.onnx")
    [found] = ort.InferenceSession(str(tmp_path / "model.onnx")).run(["y"], {"x": x})

    tokens = np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-12) / LEVELS
    channels = np.maximum(np.abs(weight).max(axis=0), 1e-12) / 127
    expected = tokens * (np.round(x / tokens) @ np.round(weight / channels)) * channels
    assert found == pytest.approx(expected, abs=1e-4 * float(np.abs(expected).max()))
    assert not np.allclose(found, x @ weight, atol=1e-4 * np.abs(expected).max())


def test_a_weights_whole_numbers_give_it_back() -> None:
    weight = np.random.default_rng(1).normal(size=(40, 9)).astype(np.float32)
    integers, scales = round_weight(weight)
    assert (integers.dtype, int(np.abs(integers).max())) == (np.int8, 127)
    assert (np.abs(integers * scales - weight) <= scales / 2 + 1e-7).all()


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_all_products_with_a_weight_run_on_integers(
    backbones: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    model = random_model(backbones(kind), lora={"targets": "all-linear", "r": 3})
    quantize(write(model, tmp_path / "exact.onnx"), tmp_path / "model.onnx")
    exact, graph = onnx.load(tmp_path / "exact.onnx").graph, onnx.load(tmp_path / "model.onnx").graph
    # Those of the last layer's heads, a few rows an article, have a dimension more.
    weights = {tensor.name for tensor in exact.initializer if len(tensor.dims) == 2}
    products = [node.input[1] for node in exact.node if node.op_type == "MatMul" and node.input[1] in weights]
    integers = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    names = [node.input[1].removesuffix(".int8").split("+") for node in integers]
    assert sorted(name for group in names for name in group) == sorted(products)
    assert len(products) >= 16
    assert [len(group) for group in names][:4] == [3, 1, 1, 1]  # query, key and value have one input
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    assert {tensors[node.input[1]].data_type for node in integers} == {TensorProto.INT8}
    assert not set(products) & set(tensors)  # the float32 weights are gone
    [found] = run(tmp_path / "model.onnx", model, LENGTHS, ["logits"])
    [expected] = run(tmp_path / "exact.onnx", model, LENGTHS, ["logits"])
    # Random weights magnify what is rounded off, on some articles without bound.
    assert 0 < np.median(np.abs(found - expected)) < 0.06 * np.abs(expected).max()


def test_a_quantised_answer_does_not_depend_on_the_texts_beside_it(
    backbones: Callable[[str], Path], tmp_path: Path
) -> None:
    model = random_model(backbones("bert"))
    quantize(write(model, tmp_path / "exact.onnx"), tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    encoded = ragged_articles(LENGTHS)

    def answer(rows: list[int]) -> np.ndarray:
        ids, mask = pad(encoded, np.array(rows), 0)
        return np.asarray(session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0])

    together = answer(list(range(len(LENGTHS))))
    assert np.concatenate([answer([row]) for row in range(len(LENGTHS))]) == pytest.approx(together, abs=1e-4)
