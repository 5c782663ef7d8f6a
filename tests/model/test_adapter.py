"""An adapter folder is peft's own: plain peft, transformers and arithmetic by hand give what newslora gives."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from tests.model.conftest import LAYERS, ragged_articles, random_model
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from newslora.data.encoding import Encoded
from newslora.errors import NewsloraError
from newslora.model.adapter import load_adapter, quiet
from newslora.model.backbone import quiet_transformers
from newslora.model.classifier import load_model, predict_logits
from newslora.model.families import FAMILIES
from newslora.model.seal import seal

NAMES = ("World", "Sports", "Sci/Tech")
ROWS = ragged_articles(np.random.default_rng(1).integers(1, 129, 100).tolist())


def padded_logits(model: torch.nn.Module, pad: int, rows: Encoded = ROWS) -> np.ndarray:
    ids = torch.full((len(rows), int(rows.lengths.max())), pad)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(rows.lengths):
        ids[row, :length] = torch.from_numpy(rows.ids[rows.offsets[row] : rows.offsets[row + 1]])
        mask[row, :length] = 1
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=mask).logits.numpy()


def plain(backbone: Path) -> PreTrainedModel:
    with quiet_transformers():
        return AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=len(NAMES))


def pad_of(kind: str) -> int:
    return 1 if kind in ("roberta", "xlm-roberta", "mpnet") else 0


@pytest.mark.parametrize("head", ["full", "lora", "linear"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_plain_peft_and_a_fresh_load_give_the_logits_of_the_trained_model(
    kind: str, head: str, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    backbone, folder = tiny_backbone(kind), tmp_path / "adapter"
    lora = {"r": 3, "alpha": 7, "targets": "query,value,output"}
    model = random_model(backbone, NAMES, model={"head": head}, lora=lora)
    expected = predict_logits(model, ROWS)
    assert expected.std(axis=0).min() > 0.01  # the rows do differ
    # ModernBERT's random logits of 3 and more differ in their last digits by the processor.
    scale = float(np.abs(expected).max()) if kind == "modernbert" else 1.0
    bounds = {"rtol": 1e-5, "atol": 1e-5 * max(1.0, scale)}
    model.save_adapter(folder)

    with quiet():
        by_hand = peft.PeftModel.from_pretrained(plain(backbone), folder)
        with quiet_transformers():
            by_auto = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder)
    np.testing.assert_allclose(padded_logits(by_hand, pad_of(kind)), expected, **bounds)
    np.testing.assert_allclose(padded_logits(by_auto, pad_of(kind)), expected, **bounds)

    assert by_auto.config.id2label == dict(enumerate(NAMES))

    loaded = load_model(folder)
    np.testing.assert_allclose(predict_logits(loaded, ROWS), expected, **bounds)
    assert loaded.names == NAMES
    assert loaded.max_length == 128
    assert not loaded.training
    assert loaded.trainable_parameters() == []


@pytest.mark.parametrize(("scaling", "factor"), [("alpha/r", 6 / 4), ("rslora", 6 / math.sqrt(4)), ("alpha", 6.0)])
@pytest.mark.parametrize("head", ["full", "lora"])
def test_the_saved_matrices_times_the_scaling_added_to_the_weights_by_hand_give_the_same(
    scaling: str, factor: float, head: str, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    lora = {"r": 4, "alpha": 6, "scaling": scaling, "targets": "all-linear"}
    model = random_model(tiny_backbone("roberta"), NAMES, model={"head": head}, lora=lora)
    model.save_adapter(tmp_path)
    tensors = {
        k.removeprefix("base_model.model."): v for k, v in load_file(tmp_path / "adapter_model.safetensors").items()
    }
    by_hand = plain(tiny_backbone("roberta"))
    weights, updated = dict(by_hand.named_parameters()), 0
    with torch.no_grad():
        for name, tensor in tensors.items():
            stem, marker, _ = name.partition(".lora_A")
            if marker:
                weights[f"{stem}.weight"] += factor * tensors[f"{stem}.lora_B.weight"] @ tensor
                updated += 1
            elif ".lora_B" not in name:
                weights[name].copy_(tensor)
    assert updated == 6 * LAYERS
    np.testing.assert_allclose(padded_logits(by_hand, 1), predict_logits(model, ROWS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("scaling", "factor"), [("alpha/r", 6 / 4), ("rslora", 6 / math.sqrt(4)), ("alpha", 6.0)])
def test_the_heads_own_update_has_the_same_scaling(
    scaling: str, factor: float, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    lora = {"r": 4, "alpha": 6, "scaling": scaling}
    model = random_model(tiny_backbone("roberta"), NAMES, model={"head": "lora"}, lora=lora)
    update = dict(model.named_parameters())
    [a], [b], [original] = (
        [p for name, p in update.items() if "dense.parametrizations.weight." in name and name.endswith(end)]
        for end in (".0.A", ".0.B", ".original")
    )
    model.save_adapter(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")["base_model.model.classifier.dense.weight"]
    torch.testing.assert_close(saved, original + factor * b @ a)
    assert not original.requires_grad


@pytest.mark.parametrize("kind", FAMILIES)
def test_lora_sits_on_every_linear_layer_of_the_encoder_and_never_in_the_head(
    kind: str, tiny_backbone: Callable[[str], Path]
) -> None:
    model = random_model(tiny_backbone(kind), lora={"targets": "all-linear", "r": 2})
    adapted = {name for name, module in model.plain.named_modules() if isinstance(module, LoraLayer)}
    prefix = FAMILIES[kind].layers
    assert all(name.startswith(f"{prefix}.") for name in adapted)
    linear = {
        name.removesuffix(".base_layer")
        for name, module in model.plain.get_submodule(prefix).named_modules(prefix=prefix)
        if type(module) is torch.nn.Linear and ".lora_" not in name
    }
    assert adapted == linear


def test_layers_narrow_the_update_to_some_layers(tiny_backbone: Callable[[str], Path]) -> None:
    model = random_model(tiny_backbone("bert"), lora={"targets": "key", "layers": "0,2"})
    adapted = {name for name, module in model.plain.named_modules() if isinstance(module, LoraLayer)}
    assert adapted == {f"bert.encoder.layer.{layer}.attention.self.key" for layer in (0, 2)}


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_head_mode_trains_just_its_part_of_the_head(kind: str, tiny_backbone: Callable[[str], Path]) -> None:
    dense, output = FAMILIES[kind].head_dense, FAMILIES[kind].head_output
    extra = {f"{output}.{name}" for name in ("weight", "bias")}
    low_rank = {f"{dense}.parametrizations.weight.0.{name}" for name in ("A", "B")}
    assert trained_in_head(tiny_backbone(kind), "linear") == extra
    assert trained_in_head(tiny_backbone(kind), "lora") == extra | low_rank
    full = trained_in_head(tiny_backbone(kind), "full")
    assert full >= extra | {f"{dense}.weight"}
    hidden = dense.rpartition(".")[0] or dense
    assert all(name.startswith((f"{output}.", f"{hidden}.")) for name in full)


def trained_in_head(backbone: Path, head: str) -> set[str]:
    model = random_model(backbone, model={"head": head}, lora={"r": 2, "targets": "query"})
    trained = (name for name, parameter in model.plain.named_parameters() if parameter.requires_grad)
    return {name.replace(".modules_to_save.default", "") for name in trained if ".lora_" not in name}


def test_nothing_saved_is_a_pickle(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    random_model(tiny_backbone("roberta"), model={"head": "lora"}).save_adapter(tmp_path)
    files = {file.name: file for file in tmp_path.rglob("*") if file.is_file()}
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json"} <= set(files)
    assert {file.suffix for file in files.values()} == {".json", ".safetensors"}
    assert not any(file.read_bytes().startswith((b"\x80", b"PK")) for file in files.values())


def test_a_backbone_without_its_head_part_has_that_part_saved_even_where_it_is_not_trained(
    tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    random_model(tiny_backbone("distilbert"), model={"head": "linear"}).save_adapter(tmp_path / "fresh")
    random_model(tiny_backbone("bert"), model={"head": "linear"}).save_adapter(tmp_path / "known")
    fresh, known = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("fresh", "known"))
    assert "base_model.model.pre_classifier.weight" in fresh
    assert not any("pooler" in key for key in known)  # BERT's checkpoint holds its pooler


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def lose_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop(next(key for key in tensors if "lora_B" in key))
    save_file(tensors, file)


def lose_the_head(file: Path) -> None:
    save_file({key: tensor for key, tensor in load_file(file).items() if "lora_" in key}, file)


def widen_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    key = next(key for key in tensors if "lora_B" in key)
    save_file(tensors | {key: torch.zeros(5, 8)}, file)


def add_a_tensor(file: Path) -> None:
    save_file(load_file(file) | {"base_model.model.bert.more": torch.zeros(2)}, file)


def halve_the_numbers(file: Path) -> None:
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)


def spoil_a_number(file: Path) -> None:
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] = math.nan
    save_file(tensors, file)


DAMAGES = [cut_short, lose_a_tensor, lose_the_head, widen_a_tensor, Path.unlink]
DAMAGES += [add_a_tensor, halve_the_numbers, spoil_a_number]


@pytest.mark.parametrize("again", [False, True])  # whether it is sealed again
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused_in_one_line(
    damage: Callable[[Path], None], again: bool, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    random_model(tiny_backbone("bert")).save_adapter(tmp_path)
    damage(tmp_path / "adapter_model.safetensors")
    if again:
        seal(tmp_path)
    with pytest.raises(NewsloraError, match="use the run it came from") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_head_of_another_number_of_labels_is_refused(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    random_model(tiny_backbone("bert"), NAMES).save_adapter(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    names = {"id2label": {"0": "World", "1": "Sports"}, "label2id": {"World": 0, "Sports": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config | names))
    seal(tmp_path)
    with pytest.raises(NewsloraError, match=r"does not fit its backbone and labels, .*classifier\.bias is \[3\]"):
        load_model(tmp_path)


def test_another_rank_than_the_tensors_is_refused(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    random_model(tiny_backbone("bert"), NAMES, lora={"r": 3}).save_adapter(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 1 << 30}))  # of which no matrix is made
    seal(tmp_path)
    with pytest.raises(NewsloraError, match=r"holds ranks \[3\] where the configuration has \[1073741824\]"):
        load_model(tmp_path)


def test_a_pickle_is_never_taken_for_the_adapter(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    """peft's own loader reads adapter_model.bin where the safetensors file is missing."""
    model = random_model(tiny_backbone("bert"))
    model.save_adapter(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "adapter_model.bin")
    seal(tmp_path)
    with pytest.raises(NewsloraError, match="may be a pickle, which can run code"):
        load_model(tmp_path)
    with pytest.raises(NewsloraError, match=r"adapter_model\.safetensors: cannot be read"):
        load_adapter(plain(tiny_backbone("bert")), tmp_path, FAMILIES["bert"])


def test_an_adapter_is_not_merged_into_its_backbone_twice(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    """On a backbone that already holds the update it would count double: the weights' digest tells it from the old."""
    model = random_model(tiny_backbone("bert"), NAMES)
    model.save_adapter(tmp_path / "adapter")
    merged = load_model(tmp_path / "adapter").peft.merge_and_unload()
    with quiet_transformers():
        merged.save_pretrained(tmp_path / "merged")
    own = json.loads((tmp_path / "adapter" / "newslora.json").read_text())
    (tmp_path / "adapter" / "newslora.json").write_text(json.dumps(own | {"backbone": str(tmp_path / "merged")}))
    seal(tmp_path / "adapter")
    with pytest.raises(NewsloraError, match="is not the one that the adapter was trained on"):
        load_model(tmp_path / "adapter")
