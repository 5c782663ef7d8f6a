"""An ONNX graph while it is being written."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

FUSED: Final = "com.microsoft"
"""Domain of the operators that ONNX Runtime has beyond the standard."""


class Nodes:
    """Nodes and constants as they are added; each node has one output.

    Args:
        prefix: Begins the names of nodes, where they are added to those of another graph.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """Add a constant, unless it was added before, and return its name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def add(self, kind: str, *inputs: str, domain: str = "", output: str = "", **attributes: Any) -> str:  # noqa: ANN401 - as onnx has it
        """Add a node and return its output's name."""
        output = output or f"{self.prefix}{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, domain=domain, **attributes))
        return output
