import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.conftest import ragged_articles, ragged_batch, random_model
from transformers import AutoModelForSequenceClassification

from newslora.errors import NewsloraError
from newslora.model.about import write_about
from newslora.model.classifier import NewsModel, predict_logits
from newslora.model.families import FAMILIES
from newslora.model.features import watch_features
from newslora.model.merged import MergedModel, load_merged, merge

LENGTHS = [5, 30, 5, 17, 17, 2, 40]


def write_merged(model: NewsModel, folder: Path) -> Path:
    merge(model).save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    write_about(folder, model.identity, model.max_length)
    return folder


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_merged_model_is_the_adapted_one(tiny_backbone: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    model = random_model(tiny_backbone(kind), lora={"targets": "all-linear", "r": 3})
    encoded = ragged_articles(LENGTHS)
    before = predict_logits(model, encoded)
    folder = write_merged(model, tmp_path / "merged")
    assert predict_logits(load_merged(folder), encoded) == pytest.approx(before, abs=1e-4)
    assert predict_logits(load_merged(folder, "padded"), encoded) == pytest.approx(before, abs=1e-4)
    assert predict_logits(model, encoded) == pytest.approx(before, abs=0)


def test_plain_transformers_loads_it(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    model = random_model(tiny_backbone("roberta"), names=("x", "y"), model={"head": "lora"})
    folder = write_merged(model, tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = ragged_batch([6, 6])
    with torch.no_grad():
        found = plain(input_ids=batch.input_ids.view(2, 6)).logits
        expected = model(batch)
    assert plain.config.id2label == {0: "x", 1: "y"}
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_it_is_frozen_and_merges_to_itself(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    loaded = load_merged(write_merged(random_model(tiny_backbone("bert")), tmp_path / "merged"))
    assert isinstance(loaded, MergedModel)
    assert (loaded.trainable_parameters(), loaded.training, merge(loaded)) == ([], False, loaded.plain)
    with watch_features(loaded) as seen:
        predict_logits(loaded, ragged_articles([3, 4]))
    assert [tuple(tensor.shape) for tensor in seen] == [(2, 32)]


def test_weights_that_are_missing(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    folder = write_merged(random_model(tiny_backbone("bert")), tmp_path / "merged")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(NewsloraError, match="merged: its checkpoint lacks"):
        load_merged(folder)


def test_an_export_without_its_head_is_refused(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    folder = write_merged(random_model(tiny_backbone("bert")), tmp_path / "merged")
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: t for name, t in tensors.items() if not name.startswith("classifier.")}, folder / "model.safetensors"
    )
    with pytest.raises(NewsloraError, match=r"merged: lacks weights \(classifier\.bias, …\); export the run again"):
        load_merged(folder)


def test_a_merged_export_is_held_to_its_positions(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    model = random_model(tiny_backbone("roberta"))
    folder = write_merged(model, tmp_path / "merged")
    write_about(folder, model.identity, 159)
    with pytest.raises(NewsloraError, match="159 exceeds this backbone's 158 positions"):
        load_merged(folder)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_tied_weights_are_not_merged(tiny_backbone: Callable[[str], Path], kind: str) -> None:
    model = random_model(tiny_backbone(kind), lora={"targets": "output", "r": 2})
    first, second, *_ = (layer.base_layer for layer in model.plain.modules() if hasattr(layer, "lora_A"))
    second.weight = first.weight  # each module's update would be added to both
    with pytest.raises(NewsloraError, match="are one tied weight"):
        merge(model)
