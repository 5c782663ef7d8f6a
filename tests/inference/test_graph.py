from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tests.model.conftest import ragged_articles, random_model, write_backbone

from newslora.errors import NewsloraError
from newslora.inference.graph import write_graph
from newslora.inference.onnx_model import pad
from newslora.model.classifier import NewsModel, predict_logits
from newslora.model.families import FAMILIES
from newslora.model.merged import merge

LENGTHS = [5, 30, 5, 17, 17, 2, 40]
FUSED = [kind for kind, family in FAMILIES.items() if family.style == "post-norm"]


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            write_backbone(kind, made[kind], seed=1)
        return made[kind]

    return make


def write(model: NewsModel, file: Path) -> Path:
    write_graph(merge(model), model.family, file)
    return file


def run(graph: Path | bytes, model: NewsModel, lengths: list[int], outputs: list[str]) -> list[np.ndarray]:
    """Run a graph on all articles in one padded batch."""
    encoded = ragged_articles(lengths)
    ids, mask = pad(encoded, np.arange(len(lengths)), model.tokenizer.pad_token_id)
    session = ort.InferenceSession(graph if isinstance(graph, bytes) else str(graph))
    return list(session.run(outputs, {"input_ids": ids, "attention_mask": mask}))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_graph_is_the_model(backbones: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    model = random_model(backbones(kind), lora={"targets": "all-linear", "r": 3})
    expected = predict_logits(model, ragged_articles(LENGTHS))
    file = write(model, tmp_path / "model.onnx")
    [found] = run(file, model, LENGTHS, ["logits"])
    assert found == pytest.approx(expected, abs=1e-4)
    for length in (1, 9):  # both axes are free
        [alone] = run(file, model, [length], ["logits"])
        assert alone == pytest.approx(predict_logits(model, ragged_articles([length])), abs=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("kind", FUSED)
def test_the_last_layer_runs_on_the_first_tokens_alone(
    backbones: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    model = random_model(backbones(kind))
    graph = onnx.load(write(model, tmp_path / "model.onnx"))
    shapes = {}
    for node in graph.graph.node:
        if node.op_type == "MatMul" and node.input[1].startswith(("layer.1.", "layer.2.")):
            shapes[node.input[1].removesuffix(".weight")] = node.output[0]
            graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.output[0]))
    found = run(graph.SerializeToString(), model, LENGTHS, list(shapes.values()))
    sizes = {name: tensor.shape[:2] for name, tensor in zip(shapes, found, strict=True)}
    everywhere, first = (len(LENGTHS), max(LENGTHS)), (len(LENGTHS), 1)
    by_head = (model.plain.config.num_attention_heads, len(LENGTHS))
    assert {size for name, size in sizes.items() if name.startswith("layer.1.")} == {everywhere}
    last = {name.removeprefix("layer.2."): size for name, size in sizes.items() if name.startswith("layer.2.")}
    assert last == {
        **dict.fromkeys(("query", "attention-output", "intermediate", "output"), first),
        **dict.fromkeys(("key", "value"), by_head),
    }


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "gelu_pytorch_tanh"])
def test_other_activations(backbones: Callable[[str], Path], tmp_path: Path, activation: str) -> None:
    model = random_model(backbones("bert"))
    merged = merge(model)
    from transformers.activations import ACT2FN

    merged.config.hidden_act = activation
    for layer in merged.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = ACT2FN[activation]
    write_graph(merged, model.family, tmp_path / "model.onnx")
    encoded = ragged_articles(LENGTHS)
    ids, mask = pad(encoded, np.arange(len(LENGTHS)), 0)
    import torch

    with torch.no_grad():
        expected = merged(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
    [found] = run(tmp_path / "model.onnx", model, LENGTHS, ["logits"])
    assert found == pytest.approx(expected.numpy(), abs=1e-4)


def test_an_activation_without_a_fused_operator(backbones: Callable[[str], Path], tmp_path: Path) -> None:
    merged = merge(model := random_model(backbones("bert")))
    merged.config.hidden_act = "silu"
    with pytest.raises(NewsloraError, match="the activation 'silu' has no fused operator"):
        write_graph(merged, model.family, tmp_path / "model.onnx")
