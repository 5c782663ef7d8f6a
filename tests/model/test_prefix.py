"""The cached output of the frozen layers stands for the layers themselves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from newslora.config import RunConfig
from newslora.data.batches import make_batch
from newslora.data.encoding import Encoded
from newslora.errors import NewsloraError
from newslora.model.classifier import NewsModel, build_model
from newslora.model.prefix import build_prefix

LENGTHS = [3, 9, 9, 20, 1, 64, 31]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEWSLORA_CACHE", str(tmp_path / "cache"))


def articles() -> Encoded:
    ids = np.random.default_rng(1).integers(5, 120, sum(LENGTHS)).astype(np.int32)
    return Encoded(ids, np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64))


def model_of(backbone: Path, layers: str = "1-2", engine: str = "packed") -> NewsModel:
    settings = {
        "model": {"backbone": str(backbone)},
        "lora": {"layers": layers, "r": 4},
        "train": {"engine": engine},
    }
    model = build_model(RunConfig.from_dict(settings), ("a", "b", "c"))
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "modernbert"])
@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_logits_and_gradients_equal_the_uncached_within_half_precision(
    kind: str, memory: int, tiny_backbone: Callable[[str], Path]
) -> None:
    model, encoded = model_of(tiny_backbone(kind)), articles()
    prefix = build_prefix(model, encoded, memory)
    assert prefix is not None and (prefix.file is None) == bool(memory)
    results = []
    for cache in (None, prefix):
        model.zero_grad(set_to_none=True)
        logits = model(make_batch(encoded, [5, 0, 3, 2], prefix=cache))
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad for p in model.trainable_parameters())])
    for plain, cached in zip(*results, strict=True):
        torch.testing.assert_close(cached, plain, rtol=2e-2, atol=2e-2 * float(plain.abs().max()))


def test_there_is_nothing_to_cache_below_layer_0_or_in_the_padded_pass(tiny_backbone: Callable[[str], Path]) -> None:
    assert build_prefix(model_of(tiny_backbone("bert"), layers="0-2"), articles()) is None
    assert build_prefix(model_of(tiny_backbone("bert"), engine="padded"), articles()) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "note"])
def test_a_damaged_file_is_rebuilt_and_not_believed(damage: str, tiny_backbone: Callable[[str], Path]) -> None:
    model, encoded = model_of(tiny_backbone("bert")), articles()
    first = build_prefix(model, encoded, memory=0)
    assert first is not None and first.file is not None
    good = first.file.read_bytes()
    if damage == "cut":
        first.file.write_bytes(good[:-7])
    elif damage == "flip":
        first.file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    else:
        first.file.with_suffix(".json").write_text("{}")
    again = build_prefix(model, encoded, memory=0)
    assert again is not None and again.file is not None
    assert again.file.read_bytes() == good
    again.discard()
    assert not list(again.file.parent.iterdir())


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(
    tiny_backbone: Callable[[str], Path], disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a mapped file without room the system would kill the process."""
    place = disk(4)
    monkeypatch.setenv("NEWSLORA_CACHE", str(place))
    with pytest.raises(NewsloraError, match="No space left on device"):
        build_prefix(model_of(tiny_backbone("bert")), articles(), memory=0)
    assert list(place.iterdir()) == []
