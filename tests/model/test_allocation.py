"""Ranks shared out by gradients: the greatest gains first, within the parameters of uniform ranks."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.newsroom import articles, write_table
from torch.nn.functional import cross_entropy

from newslora.config import RunConfig, change
from newslora.data.batches import make_batch
from newslora.data.prepare import Prepared, prepare
from newslora.model.allocation import MOST, allocated, share_out
from newslora.model.backbone import load_tokenizer
from newslora.model.budget import Planner
from newslora.model.classifier import build_model
from newslora.model.warm_head import warm_head


def test_ranks_go_where_they_gain_most() -> None:
    gains = {"a": np.array([9.0, 8.0, 1.0]), "b": np.array([5.0, 4.0, 3.0])}
    assert share_out(gains, {"a": 1, "b": 1}, 4, most=9) == {"a": 2, "b": 2}
    assert share_out(gains, {"a": 1, "b": 1}, 5, most=9) == {"a": 2, "b": 3}
    assert share_out(gains, {"a": 3, "b": 1}, 6, most=9) == {"a": 1, "b": 3}  # a's second rank costs too much
    assert share_out(gains, {"a": 1, "b": 1}, 9, most=2) == {"a": 2, "b": 2}


def test_no_other_allocation_gains_more_at_equal_costs() -> None:
    gains = {name: np.sort(np.random.default_rng(i).random(5))[::-1] for i, name in enumerate("abc")}
    ours = share_out(gains, dict.fromkeys("abc", 2), 16, most=5)
    best = max(
        (ranks for ranks in itertools.product(range(1, 6), repeat=3) if 2 * sum(ranks) <= 16),
        key=lambda ranks: sum(gains[name][:r].sum() for name, r in zip("abc", ranks, strict=True)),
    )
    assert tuple(ours.values()) == best


@pytest.fixture(scope="module")
def config(news_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    table = write_table(tmp_path_factory.mktemp("table") / "train.csv", articles(120))
    lora = {"r": 3, "alpha": 6, "targets": "all-linear", "allocation": "gradient", "scaling": "alpha/r"}
    model = {"backbone": str(news_backbone), "head": "linear"}
    return RunConfig.from_dict({"data": {"train": str(table)}, "model": model, "lora": lora})


@pytest.fixture(scope="module")
def data(config: RunConfig) -> Prepared:
    return prepare(config.data, load_tokenizer(config.model.backbone), 0)


def test_the_parameters_are_those_of_uniform_ranks_or_a_few_less(config: RunConfig, data: Prepared) -> None:
    model = build_model(change(config, {"lora.allocation": "none"}, "test"), data.names)
    uniform = model.counts().trainable
    settled = allocated(config, data)
    assert settled.lora.allocation == "none"
    assert len(settled.lora.ranks) == 2 * 6
    assert len(set(settled.lora.ranks.values())) > 1
    assert max(settled.lora.ranks.values()) <= MOST * 3
    built = build_model(settled, data.names)
    assert uniform - 96 < built.counts().trainable <= uniform
    plan = Planner(model.plain.config, 5, "it").settings(settled.lora, "linear")
    assert plan.trainable == built.counts().trainable


@pytest.mark.parametrize(("scaling", "power"), [("alpha/r", 1.0), ("rslora", 0.5), ("alpha", 0.0)])
def test_every_update_keeps_its_factor(config: RunConfig, data: Prepared, scaling: str, power: float) -> None:
    lora = allocated(change(config, {"lora.scaling": scaling}, "test"), data).lora
    assert lora.alphas == {name: pytest.approx(6 * (r / 3) ** power) for name, r in lora.ranks.items()}


def test_it_is_repeatable_and_leaves_other_settings_alone(config: RunConfig, data: Prepared) -> None:
    assert allocated(config, data) == allocated(config, data)
    plain = change(config, {"lora.allocation": "none"}, "test")
    assert allocated(plain, data) is plain


def test_the_spectra_are_those_of_the_gradient(config: RunConfig, data: Prepared) -> None:
    """The module with most ranks a parameter has the greatest gradient by autograd on the merged model too."""
    plain = change(config, {"lora.allocation": "none", "train.engine": "padded", "lora.targets": ("query",)}, "test")
    model = build_model(plain, data.names).eval()
    warm_head(model, data.train.encoded, data.train.labels, 0)
    weights = [p for name, p in model.named_parameters() if "base_layer.weight" in name]
    batch = make_batch(data.train.encoded, range(len(data.train.labels)), data.train.labels)
    for weight in weights:
        weight.requires_grad_(True)
    assert batch.labels is not None
    gradients = torch.autograd.grad(cross_entropy(model(batch), batch.labels), weights)
    spectra = [torch.linalg.svdvals(gradient).square() for gradient in gradients]
    ranks = share_out({str(i): s.numpy() for i, s in enumerate(spectra)}, {"0": 64, "1": 64}, 3 * 128, 12)
    settled = allocated(change(config, {"lora.targets": ("query",)}, "test"), data).lora.ranks
    assert settled == {f"{layer}.query": rank for layer, rank in ranks.items()}
