"""The model as the rest of the program uses it: rows in order, engines alike, seeded, and strict on what it loads."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.conftest import ragged_articles, ragged_batch, random_model

from newslora.config import RunConfig
from newslora.data.batches import make_batch
from newslora.errors import NewsloraError
from newslora.files import writing
from newslora.model.classifier import NewsModel, build_model, load_model, predict_logits
from newslora.model.families import FAMILIES

LENGTHS = [3, 128, 1, 40, 40, 7, 90, 2, 33, 128, 5]
NAMES = ("World", "Sports", "Business", "Sci/Tech")


@pytest.mark.parametrize("kind", FAMILIES)
def test_both_engines_agree_in_every_family(kind: str, tiny_backbone: Callable[[str], Path]) -> None:
    models = [
        random_model(tiny_backbone(kind), lora={"targets": "all-linear"}, train={"engine": engine})
        for engine in ("packed", "padded")
    ]
    models[1].load_state_dict(models[0].state_dict())
    runs_packed = FAMILIES[kind].style is not None
    assert [model.encoder is not None for model in models] == [runs_packed, False]
    batch = ragged_batch(LENGTHS)
    packed, padded = (model.double()(batch) for model in models)
    torch.testing.assert_close(packed, padded, rtol=1e-9, atol=1e-9)
    assert packed.shape == (len(LENGTHS), 3)


def test_logits_come_in_row_order_and_progress_counts_the_articles(tiny_backbone: Callable[[str], Path]) -> None:
    model = random_model(tiny_backbone("roberta"), NAMES).train()
    encoded, done = ragged_articles(LENGTHS * 20), []
    logits = predict_logits(model, encoded, done.append)
    assert logits.dtype == np.float32
    assert logits.shape == (len(encoded), 4)
    assert sum(done) == len(encoded)
    assert len(done) > 1
    assert model.training  # the mode is put back
    model.eval()
    for row in (0, 1, 2, 100, len(encoded) - 1):
        alone = predict_logits(model, encoded.take(np.array([row])))
        np.testing.assert_allclose(logits[row], alone[0], rtol=1e-4, atol=1e-5)


def test_prediction_is_without_dropout_whatever_the_mode(tiny_backbone: Callable[[str], Path]) -> None:
    model = random_model(tiny_backbone("bert"), model={"dropout": 0.5}, lora={"dropout": 0.5})
    encoded = ragged_articles(LENGTHS)
    expected = predict_logits(model.eval(), encoded)
    assert np.array_equal(predict_logits(model.train(), encoded), expected)


def weights(backbone: Path, seed: int, head: str = "lora") -> dict[str, torch.Tensor]:
    settings = {"model": {"backbone": str(backbone), "head": head}, "train": {"seed": seed}}
    return build_model(RunConfig.from_dict(settings), NAMES).state_dict()


def test_the_seed_decides_the_initial_weights(tiny_backbone: Callable[[str], Path]) -> None:
    backbone = tiny_backbone("roberta")
    first = weights(backbone, 3)
    torch.randn(7)
    again, other = weights(backbone, 3), weights(backbone, 4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert any("lora_A" in name for name in differing)
    assert any("out_proj" in name for name in differing)
    assert all("lora_A" in name or "classifier" in name for name in differing)


def test_before_training_lora_changes_nothing(tiny_backbone: Callable[[str], Path]) -> None:
    settings = {"model": {"backbone": str(tiny_backbone("bert"))}, "lora": {"targets": "all-linear"}}
    model = build_model(RunConfig.from_dict(settings), NAMES).eval()
    batch = ragged_batch(LENGTHS)
    tuned = model(batch)
    with model.peft.disable_adapter():
        plain = model.peft.base_model.model.bert(input_ids=batch.input_ids[:128].unsqueeze(0)).pooler_output
    torch.testing.assert_close(model.output_layer(plain)[0], tuned[0], rtol=1e-4, atol=1e-5)


def test_counts_are_those_of_the_parameters(tiny_backbone: Callable[[str], Path]) -> None:
    model = random_model(tiny_backbone("bert"), NAMES, lora={"r": 2, "targets": "query"}, model={"head": "linear"})
    assert model.counts().trainable == sum(p.numel() for p in model.trainable_parameters()) == 3 * 2 * 64 + 4 * 33
    assert model.counts().total > model.counts().trainable


def test_over_budget_is_refused_when_built(tiny_backbone: Callable[[str], Path]) -> None:
    with pytest.raises(NewsloraError, match=r"over the budget of 1,000; nearest that fit: "):
        random_model(tiny_backbone("bert"), lora={"budget": 1000, "r": 64})


@pytest.fixture
def saved(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> Path:
    """An adapter folder on a backbone of its own: ``backbone`` beside ``adapter``."""
    backbone = shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")
    random_model(backbone, NAMES, data={"max_length": 37}).save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("engine", ["packed", "padded"])
def test_names_length_and_tokenizer_travel_with_the_adapter(saved: Path, engine: str) -> None:
    model = load_model(saved, engine)
    assert model.names == NAMES
    assert model.max_length == 37
    assert (model.encoder is not None) == (engine == "packed")
    assert model.tokenizer("a b")["input_ids"] == [2, 4, 5, 3]
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_loaded_model_is_saved_again_the_same(saved: Path, tmp_path: Path) -> None:
    load_model(saved).save_adapter(tmp_path / "again")
    for name in ("newslora.json", "tokenizer.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes(), name


def test_more_than_ten_labels_keep_their_order(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    names = tuple(f"topic {i}" for i in range(12))
    random_model(tiny_backbone("bert"), names).save_adapter(tmp_path)
    assert load_model(tmp_path).names == names


def test_another_backbone_of_the_same_shape_is_refused(saved: Path) -> None:
    file = saved.parent / "backbone" / "model.safetensors"
    tensors = load_file(file)
    tensors["embeddings.word_embeddings.weight"] += 1e-3
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(NewsloraError, match="is not the one that the adapter was trained on; restore it"):
        load_model(saved)


def drop_about(folder: Path) -> None:
    (folder / "newslora.json").unlink()


def drop_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def drop_backbone(folder: Path) -> None:
    shutil.rmtree(folder.parent / "backbone")


@pytest.mark.parametrize("damage", [drop_about, drop_tokenizer, drop_backbone, shutil.rmtree])
def test_a_damaged_folder_is_refused_in_one_line(damage: Callable[[Path], None], saved: Path) -> None:
    damage(saved)
    with pytest.raises(NewsloraError) as caught:
        load_model(saved)
    assert "\n" not in str(caught.value)
    assert str(saved.parent) in str(caught.value)


def test_a_full_disk_leaves_no_adapter(
    tiny_backbone: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(tiny_backbone("bert"))

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    target = tmp_path / "adapter"
    full_disk = pytest.raises(NewsloraError, match=r"adapter: cannot be written \(No space left on device\)")
    with full_disk, writing(target) as staged:
        model.save_adapter(staged)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_on_its_own_is_what_the_split_says(tiny_backbone: Callable[[str], Path]) -> None:
    model: NewsModel = random_model(tiny_backbone("distilbert"))
    encoded = ragged_articles(LENGTHS)
    batch = make_batch(encoded, range(len(encoded)))
    with torch.no_grad():
        logits = model(batch).numpy()
    np.testing.assert_allclose(predict_logits(model, encoded)[list(batch.rows)], logits, rtol=1e-4, atol=1e-5)
