import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model.conftest import ragged_articles, random_model, write_backbone

from newslora.data.batches import make_batch
from newslora.errors import NewsloraError
from newslora.model.classifier import load_model, predict_logits
from newslora.model.families import FAMILIES
from newslora.model.shared import SharedBackbone

LENGTHS = [[9, 3, 30, 9], [12, 6], [5, 5, 4, 21, 17]]
KINDS: list[dict[str, Any]] = [
    {"lora": {"targets": ("query", "value"), "r": 4}, "model": {"head": "lora"}},
    {"lora": {"targets": ("all-linear",), "r": 2, "scaling": "rslora"}, "model": {"head": "full"}},
    {"lora": {"targets": ("output",), "r": 3, "layers": (1, 2)}, "model": {"head": "linear"}},
]


def save(backbone: Path, folder: Path, **kinds: Any) -> list[Path]:
    """Write one adapter of each kind, each with labels of its own number."""
    folders = []
    for number, kind in enumerate(kinds.get("kinds", KINDS)):
        model = random_model(backbone, tuple(f"{number}{i}" for i in range(2 + number)), **copy.deepcopy(kind))
        model.save_adapter(folder / str(number))
        folders.append(folder / str(number))
    return folders


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_mixed_batch_gives_each_article_what_its_adapter_gives_alone(
    kind: str, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    folders = save(tiny_backbone(kind), tmp_path)
    shared = SharedBackbone(folders[1])
    groups = [
        (shared.load(folder), ragged_articles(lengths, seed=sum(lengths)))
        for folder, lengths in zip(folders, LENGTHS, strict=True)
    ]
    mixed = shared.logits(groups)
    for folder, (_, encoded), logits in zip(folders, groups, mixed, strict=True):
        alone = predict_logits(load_model(folder), encoded)
        assert np.ptp(alone, axis=0).max() > 0.001  # the articles do differ
        assert logits == pytest.approx(alone, abs=1e-5)


def test_the_order_of_the_adapters_does_not_matter(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    shared = SharedBackbone((folders := save(tiny_backbone("roberta"), tmp_path))[0])
    groups = [(shared.load(folder), ragged_articles(lengths)) for folder, lengths in zip(folders, LENGTHS, strict=True)]
    forth, back = shared.logits(groups), shared.logits(groups[::-1])[::-1]
    for one, other in zip(forth, back, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_an_adapter_that_is_no_plain_low_rank_update_runs_among_others(
    tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    kinds = [KINDS[0], {"lora": {"targets": ("attention",), "r": 2, "dora": True}, "model": {"head": "linear"}}]
    folders = save(tiny_backbone("bert"), tmp_path, kinds=kinds)
    shared = SharedBackbone(folders[0])
    adapters = [shared.load(folder) for folder in folders]
    assert [adapter.updates is None for adapter in adapters] == [False, True]
    encoded = ragged_articles([8, 20, 3])
    for folder, logits in zip(folders, shared.logits([(adapter, encoded) for adapter in adapters]), strict=True):
        assert logits == pytest.approx(predict_logits(load_model(folder), encoded), abs=1e-5)


def test_the_backbone_is_in_memory_once(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    folders = save(tiny_backbone("roberta"), tmp_path)
    shared = SharedBackbone(folders[0])
    one, other = (dict(shared.load(folder).model.plain.named_parameters()) for folder in folders[1:])
    name = "roberta.encoder.layer.0.attention.self.key.base_layer.weight"
    plain = "roberta.encoder.layer.0.attention.self.key.weight"
    assert one[name].data_ptr() == other[plain].data_ptr()
    assert (
        one["roberta.embeddings.word_embeddings.weight"].data_ptr()
        == other["roberta.embeddings.word_embeddings.weight"].data_ptr()
    )


def test_gradients_reach_the_embeddings_as_through_the_adapter_alone(
    tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = save(tiny_backbone("roberta"), tmp_path)[1]
    shared = SharedBackbone(folder)
    adapter, model = shared.load(folder), load_model(folder)
    batch = make_batch(ragged_articles([7, 11]), [0, 1])
    assert model.encoder is not None
    x = model.encoder.embed(batch).detach()
    mixed, alone = x.clone().requires_grad_(), x.clone().requires_grad_()
    shared.from_embeddings(adapter, mixed, batch)[:, 1].sum().backward()
    model.head(model.encoder.layers_from(alone, batch))[:, 1].sum().backward()
    assert alone.grad is not None
    assert alone.grad.abs().max() > 1e-3
    torch.testing.assert_close(mixed.grad, alone.grad, atol=1e-4, rtol=1e-3)


def test_an_adapter_of_another_backbone_is_refused(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    write_backbone("roberta", tmp_path / "other", seed=99)
    [ours], [theirs] = (
        save(b, tmp_path / n, kinds=KINDS[:1]) for b, n in ((tiny_backbone("roberta"), "a"), (tmp_path / "other", "b"))
    )
    shared = SharedBackbone(ours)
    with pytest.raises(NewsloraError, match=r"is on backbone .*, the others on .*; serve it by itself"):
        shared.load(theirs)
