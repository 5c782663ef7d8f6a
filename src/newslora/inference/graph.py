"""The merged classifier as an ONNX graph of ONNX Runtime's fused operators.

The head reads the first token of the last layer. So that layer's queries, attention output and feed-forward network
run on one row an article, and its keys and values are never made (as in :mod:`newslora.model.first_token`). Weights of
BERT's kind are written straight into the operators that ONNX Runtime's own optimiser would fuse a traced model into:
attention of all heads, bias with GELU. Families of another kind are traced whole.
"""

import math
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from newslora.errors import NewsloraError
from newslora.inference.nodes import FUSED, Nodes
from newslora.model.families import Family

OPSET: Final = 18
_IR_VERSION: Final = 10
_ACTIVATIONS: Final = {"gelu": "BiasGelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu"}
_HIDDEN: Final = -3.0e38  # added to the score of padding
_HEADS: Final = {"bert": "Tanh", "distilbert": "Relu", "electra": "Gelu"}


class _Graph(Nodes):
    """Nodes that stand for a model's modules."""

    def weight(self, name: str, values: torch.Tensor | list[int]) -> str:
        return self.constant(
            name, values.detach().cpu().float().numpy() if isinstance(values, torch.Tensor) else np.array(values)
        )

    def product(self, x: str, linear: nn.Linear, name: str) -> str:
        return self.add("MatMul", x, self.weight(f"{name}.weight", linear.weight.t()))

    def by_head(self, x: str, name: str, weights: torch.Tensor) -> str:
        """Multiply [articles, heads · size] by each head's own weight [heads, size, out]: [articles, heads, out]."""
        heads, size, _ = weights.shape
        rows = self.add("Reshape", x, self.weight(f"heads.{size}", [-1, heads, size]))
        product = self.add("MatMul", self.add("Transpose", rows, perm=[1, 0, 2]), self.weight(name, weights))
        return self.add("Transpose", product, perm=[1, 0, 2])

    def bias(self, linear: nn.Linear, name: str) -> str:
        missing = linear.bias is None
        return self.weight(f"{name}.bias", torch.zeros(linear.out_features) if missing else linear.bias)

    def dense(self, x: str, linear: nn.Linear, name: str) -> str:
        return self.add("Gemm", x, self.weight(f"{name}.weight", linear.weight), self.bias(linear, name), transB=1)


def write_graph(model: PreTrainedModel, family: Family, file: Path) -> None:
    """Write a merged model as an ONNX graph.

    Inputs are ``input_ids`` and ``attention_mask``, int64 [articles, tokens], articles padded on the right; the output
    is ``logits``, float32 [articles, labels]. Both axes are free.

    Args:
        model: The merged model, in evaluation mode.
        family: Its family.
        file: Where to write.

    Raises:
        NewsloraError: The family's model cannot be written as a graph.
    """
    if family.style == "post-norm":
        onnx.save(_build(model, family), str(file))
    else:
        _trace(model, file)


def _build(model: PreTrainedModel, family: Family) -> onnx.ModelProto:
    graph, config = _Graph(), model.config
    mask = graph.add("Cast", "attention_mask", to=TensorProto.INT32)
    x = _embed(graph, model)
    layers = list(model.get_submodule(family.layers).children())
    for number, layer in enumerate(layers):
        x = _layer(graph, x, mask, _Layer(layer, family, config, f"layer.{number}", layer is layers[-1]))
    _head(graph, x, model, family)
    return _finish(graph, int(model.config.num_labels or 0))


def _embed(graph: _Graph, model: PreTrainedModel) -> str:
    """Add words, positions and type 0, and norm them: [articles, tokens, width]."""
    backbone: Any = model.base_model
    parts = backbone.embeddings
    places = parts.position_embeddings
    # RoBERTa counts positions from padding_idx + 1.
    table = places.weight[0 if places.padding_idx is None else places.padding_idx + 1 :]
    types = getattr(parts, "token_type_embeddings", None)
    table = table if types is None else table + types.weight[0]
    words = graph.add("Gather", graph.weight("words", parts.word_embeddings.weight), "input_ids")
    length = graph.add("Shape", "input_ids", start=1, end=2)
    places_used = graph.add("Slice", graph.weight("positions", table), graph.weight("zero", [0]), length)
    x = _norm(graph, graph.add("Add", words, places_used), parts.LayerNorm, "embeddings.norm")
    project = getattr(backbone, "embeddings_project", None)
    if project is None:
        return x
    return graph.add("Add", graph.product(x, project, "project"), graph.bias(project, "project"))


def _norm(graph: _Graph, x: str, norm: nn.LayerNorm, name: str) -> str:
    scale, shift = graph.weight(f"{name}.weight", norm.weight), graph.weight(f"{name}.bias", norm.bias)
    return graph.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=norm.eps)


class _Layer:
    """A layer's linear modules, norms and settings under their common names."""

    def __init__(self, layer: nn.Module, family: Family, config: PreTrainedConfig, name: str, last: bool) -> None:
        modules: list[Any] = [layer.get_submodule(path) for path in family.modules.values()]
        self.query, self.key, self.value, self.output, self.up, self.down = modules
        self.attention_norm: Any = layer.get_submodule(family.attention_norm)
        self.output_norm: Any = layer.get_submodule(family.output_norm)
        self.heads = int(config.num_attention_heads)
        self.activation = str(getattr(config, "hidden_act", None) or config.activation)
        self.name, self.last = name, last

    def context_bias(self) -> torch.Tensor:
        """Return what the values' bias and the output's come to after the output's product."""
        biases = [torch.zeros(m.out_features) if m.bias is None else m.bias for m in (self.value, self.output)]
        value, output = (bias.detach().cpu().double() for bias in biases)
        bias: torch.Tensor = self.output.weight.detach().cpu().double() @ value + output
        return bias


def _layer(graph: _Graph, x: str, mask: str, layer: _Layer) -> str:
    """Attention, add, norm; feed-forward, add, norm: on the first tokens alone where the head reads the result."""
    rows, name = x, layer.name
    if layer.last:
        one = graph.weight("one", [1])
        rows = graph.add("Slice", x, graph.weight("zero", [0]), one, one)
    # Softmax takes no notice of the keys' bias, which adds the same to a row of scores; the values' comes out of the
    # attention as it went in, since a row's weights sum to 1, and is added with the output's.
    q = graph.add("Add", graph.product(rows, layer.query, f"{name}.query"), graph.bias(layer.query, f"{name}.query"))
    if layer.last:
        context = _first_attention(graph, q, x, mask, layer)
    else:
        k, v = graph.product(x, layer.key, f"{name}.key"), graph.product(x, layer.value, f"{name}.value")
        context = graph.add("MultiHeadAttention", q, k, v, "", mask, domain=FUSED, num_heads=layer.heads)
    bias = graph.weight(f"{name}.attention-output.bias", layer.context_bias())
    rows = _add_norm(graph, context, rows, layer.output, layer.attention_norm, f"{name}.attention-output", bias)
    inner = graph.product(rows, layer.up, f"{name}.intermediate")
    inner = _activate(graph, inner, graph.bias(layer.up, f"{name}.intermediate"), layer.activation)
    bias = graph.bias(layer.down, f"{name}.output")
    return _add_norm(graph, inner, rows, layer.down, layer.output_norm, f"{name}.output", bias)


def _first_attention(graph: _Graph, q: str, x: str, mask: str, layer: _Layer) -> str:
    """Attention of each article's one query: [articles, 1, width]."""
    weights = (linear.weight.detach().cpu().double() for linear in (layer.key, layer.value))
    keys, values = (weight.view(layer.heads, -1, weight.shape[1]) for weight in weights)
    asked = graph.by_head(q, f"{layer.name}.key.weight", keys / math.sqrt(keys.shape[1]))
    scores = graph.add("FusedMatMul", asked, x, domain=FUSED, transB=1)
    scores = graph.add("Softmax", graph.add("Add", scores, _hidden(graph, mask)), axis=-1)
    seen = graph.by_head(graph.add("MatMul", scores, x), f"{layer.name}.value.weight", values.mT)
    return graph.add("Reshape", seen, graph.weight("one row", [0, 1, layer.value.out_features]))


def _hidden(graph: _Graph, mask: str) -> str:
    """Return what hides padding in an article's scores, 0 elsewhere: [articles, 1, tokens]."""
    values = graph.weight("shown", torch.tensor(0.0)), graph.weight("hidden", torch.tensor(_HIDDEN))
    added = graph.add("Where", graph.add("Cast", mask, to=TensorProto.BOOL), *values)
    return graph.add("Unsqueeze", added, graph.weight("one", [1]))


def _add_norm(graph: _Graph, x: str, residual: str, linear: nn.Linear, norm: nn.LayerNorm, name: str, bias: str) -> str:
    # ONNX Runtime's SkipLayerNormalization, which does all this at once, takes three times as long on a processor.
    inner = graph.add("Add", graph.product(x, linear, name), bias)
    return _norm(graph, graph.add("Add", inner, residual), norm, f"{name}.norm")


def _activate(graph: _Graph, x: str, bias: str, name: str) -> str:
    if name == "relu":
        return graph.add("Relu", graph.add("Add", x, bias))
    if name not in _ACTIVATIONS:
        known = ", ".join((*_ACTIVATIONS, "relu"))
        raise NewsloraError(f"--format: the activation {name!r} has no fused operator ({known} have); export merged")
    return graph.add(_ACTIVATIONS[name], x, bias, domain=FUSED)


def _head(graph: _Graph, x: str, model: PreTrainedModel, family: Family) -> None:
    """Add what :func:`newslora.model.head.head_logits` computes from the first tokens."""
    first = graph.add("Squeeze", x, graph.weight("one", [1]))
    dense: Any = model.get_submodule(family.head_dense)
    output: Any = model.get_submodule(family.head_output)
    kind = _HEADS.get(model.config.model_type, "Tanh")
    hidden = graph.add(kind, graph.dense(first, dense, "head"), domain=FUSED if kind == "Gelu" else "")
    logits = graph.dense(hidden, output, "classifier")
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"], "logits"))


def _finish(graph: _Graph, labels: int) -> onnx.ModelProto:
    axes = ["articles", "tokens"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["articles", labels])
    made = helper.make_graph(graph.nodes, "newslora", inputs, [output], list(graph.constants.values()))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="newslora")


class _Logits(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits [articles, labels]."""
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def _trace(model: PreTrainedModel, file: Path) -> None:
    articles, tokens = torch.export.Dim("articles", min=1), torch.export.Dim("tokens", min=1)
    names = ("input_ids", "attention_mask")
    example = torch.ones((2, 9), dtype=torch.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the tracer thinks of the libraries it meets
            torch.onnx.export(
                _Logits(model).eval(),
                (example, example.clone()),
                str(file),
                input_names=list(names),
                output_names=["logits"],
                dynamic_shapes={name: {0: articles, 1: tokens} for name in names},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the tracer raises whatever the model's code meets
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NewsloraError(
            f"--format: a {model.config.model_type!r} model cannot be written as a graph ({reason}); export merged"
        ) from error
