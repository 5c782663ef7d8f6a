"""A graph whose layers' matrix products run on 8-bit integers.

A weight has one scale an output channel, found once. An activation has one scale a token, found as it arrives, so an
article's answer does not depend on the articles beside it, as it would with one scale a batch (ONNX Runtime's
``quantize_dynamic``). With a = x / s rounded and B the quantised weight, x W is s · (a B) · t, s a column of tokens'
scales and t a row of channels' (Dettmers et al. 2022, arXiv 2208.07339, equation 1).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from newslora.inference.nodes import FUSED, Nodes

LEVELS: Final = 80
"""An activation's whole numbers run from -80 to 80, stored from 0 to 160.

Processors without VNNI add two neighbouring products in 16 bits. At 127 levels one pair in 30,000 of a real article's
overflows there, at 80 one in 100 million, and labels agree as often."""
_TOP: Final = 127  # of a weight
_TINY: Final = 1e-12


class _Integers(Nodes):
    """The graph as it is rewritten; activations that several products share are quantised once."""

    def __init__(self) -> None:
        super().__init__("int8.")
        self.quantised: dict[str, tuple[str, str]] = {}
        self.levels = self.constant("levels", np.array(LEVELS, np.uint8))

    def products(self, nodes: Sequence[onnx.NodeProto], weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Add the products of one input as one: a wide one keeps all cores at work on a short text."""
        parts = [weights[node.input[1]] for node in nodes]
        values, scale = self.quantise(nodes[0].input[0], parts[0].shape[0])
        integers, channels = round_weight(np.concatenate(parts, axis=1))
        name = "+".join(node.input[1] for node in nodes)
        inputs = (
            *(values, self.constant(f"{name}.int8", integers), self.constant("one.scale", np.array(1, np.float32))),
            *(self.constant(f"{name}.scale", channels), self.levels),
        )
        product, outputs = self.add("MatMulIntegerToFloat", *inputs, domain=FUSED), [node.output[0] for node in nodes]
        if len(nodes) == 1:
            self.add("Mul", product, scale, output=outputs[0])
            return
        sizes = self.constant(f"{name}.sizes", np.array([part.shape[1] for part in parts]))
        self.nodes.append(helper.make_node("Split", [self.add("Mul", product, scale), sizes], outputs, axis=-1))

    def quantise(self, x: str, width: int) -> tuple[str, str]:
        """Return ``x`` [..., width] as uint8 of the same shape, and the tokens' scales [..., 1]."""
        if x not in self.quantised:
            scale = self._scales(x)
            flat = self.add("Reshape", x, self.constant(f"rows.{width}", np.array([-1, width])))
            by_row = self.add("Reshape", scale, self.constant("all", np.array([-1])))
            zero = helper.make_tensor("zero", onnx.TensorProto.UINT8, [1], [LEVELS])
            zeros = self.add("ConstantOfShape", self.add("Shape", by_row), value=zero)
            values = self.add("QuantizeLinear", flat, by_row, zeros, axis=0)
            self.quantised[x] = self.add("Reshape", values, self.add("Shape", x)), scale
        return self.quantised[x]

    def _scales(self, x: str) -> str:
        last = self.constant("last", np.array([-1]))
        greatest, least = (self.add(kind, x, last, keepdims=1) for kind in ("ReduceMax", "ReduceMin"))
        tiny = self.constant("tiny", np.array(_TINY, np.float32))
        most = self.add("Max", greatest, self.add("Neg", least), tiny)
        return self.add("Mul", most, self.constant("step", np.array(1 / LEVELS, np.float32)))


def quantize(source: Path, target: Path) -> None:
    """Write a graph with its layers' matrix products on 8-bit integers.

    Embeddings, attention between tokens, norms and the head stay float32.

    Args:
        source: The graph that :func:`newslora.inference.graph.write_graph` wrote.
        target: Where to write.
    """
    model = onnx.load(str(source))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = _Integers()
    same: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if _is_product(node, weights):
            same.setdefault(node.input[0], []).append(node)
    for node in model.graph.node:
        if not _is_product(node, weights):
            made.nodes.append(node)
        elif node.input[0] in same:
            made.products(same.pop(node.input[0]), weights)
    _put(model, made)
    onnx.save(model, str(target))


def _is_product(node: onnx.NodeProto, weights: Mapping[str, npt.NDArray[np.float32]]) -> bool:
    """Say whether a node is a product with a weight; those of the last layer's heads, a few rows each, are none."""
    return node.op_type == "MatMul" and node.input[1] in weights and weights[node.input[1]].ndim == 2


def round_weight(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return a weight [in, out] as whole numbers from -127 to 127, and each output channel's scale [out]."""
    scales = np.maximum(np.abs(weight).max(axis=0), _TINY) / _TOP
    return np.round(weight / scales).astype(np.int8), scales.astype(np.float32)


def _put(model: onnx.ModelProto, made: Nodes) -> None:
    used = {name for node in made.nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    for field, content in (("node", made.nodes), ("initializer", [*kept, *made.constants.values()])):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(content)
    if FUSED not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(FUSED, 1))
