"""Fused runs: sums of updates as their papers have them, heads joined by name, weights chosen on validation rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.newsroom import TOPICS, articles, write_table

from newslora.config import RunConfig, change
from newslora.errors import NewsloraError
from newslora.inference.classifier import NewsClassifier
from newslora.model.fusion import DENSITY, Fusion, Mixture, fused_model, place
from newslora.model.residual import lora_layers
from newslora.search.fuse import fuse
from newslora.training.run_folder import RunFolder
from newslora.workflow import train

HALVES = (("Courts", "Farming"), ("Shipping", "Theatre", "Weather"))


def only(topics: tuple[str, ...], rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [row for row in rows if row[0] in topics]


@pytest.fixture(scope="module")
def config(news_backbone: Path) -> RunConfig:
    sections = {"model": {"backbone": str(news_backbone), "head": "linear"}, "lora": {"targets": "all-linear", "r": 3}}
    return RunConfig.from_dict(sections | {"train": {"epochs": 4, "lr": 0.01, "batch_size": 8}})


@pytest.fixture(scope="module")
def halves(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    """Two runs that know different topics."""
    folder, runs = tmp_path_factory.mktemp("halves"), []
    for i, topics in enumerate(HALVES):
        table = write_table(folder / f"{i}.csv", only(topics, articles(200)))
        held = write_table(folder / f"held{i}.csv", only(topics, articles(100, seed=4)))
        data = {"data.train": str(table), "data.validation": str(held)}
        runs.append(train(change(config, data | {"lora.r": 3 + i}, "test"), folder / f"run{i}"))
    return runs


@pytest.fixture(scope="module")
def fusion(halves: list[RunFolder]) -> Fusion:
    return Fusion([run.adapter for run in halves])


def deltas(run: RunFolder) -> dict[str, torch.Tensor]:
    model = NewsClassifier.load(run.path).model
    names = {id(module): name for name, module in model.plain.named_modules()}
    return {
        names[id(layer)]: layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        for layer in lora_layers(model)
    }


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_weighted_is_the_weighted_sum(fusion: Fusion, halves: list[RunFolder]) -> None:
    first, second = (deltas(run) for run in halves)
    for name, (a, b) in fusion.combine((0.5, 2.0), "weighted", seed=0).items():
        assert a.shape[0] == 3 + 4
        close(b @ a, 0.5 * first[name] + 2.0 * second[name])


def test_svd_is_its_best_approximation(fusion: Fusion, halves: list[RunFolder]) -> None:
    first, second = (deltas(run) for run in halves)
    for name, (a, b) in fusion.combine((1.0, 1.0), "svd", seed=0).items():
        u, s, v = torch.linalg.svd(first[name] + second[name], full_matrices=False)
        assert a.shape[0] == 4
        close(b @ a, u[:, :4] @ torch.diag(s[:4]) @ v[:4])


def best_of_rank(delta: torch.Tensor, r: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    return u[:, :r] @ torch.diag(s[:r]) @ v[:r]


def test_ties_trims_elects_and_merges(fusion: Fusion, halves: list[RunFolder]) -> None:
    # Yadav et al. 2023, algorithm 1, each side weighed after its signs are elected, as peft has it.
    sides, weights = [deltas(run) for run in halves], (0.7, 1.0)
    for name, (a, b) in fusion.combine(weights, "ties", seed=0).items():
        trimmed = []
        for side in sides:
            flat = side[name].flatten()
            keep = flat.abs().topk(int(DENSITY * flat.numel())).indices
            trimmed.append(torch.zeros_like(flat).index_copy(0, keep, flat[keep]).view_as(side[name]))
        stacked = torch.stack(trimmed)
        sign = torch.where(stacked.sum(dim=0) >= 0, 1.0, -1.0)
        agrees = stacked.sign() == sign
        weighed = stacked * torch.tensor(weights).view(2, 1, 1)
        merged = (weighed * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)
        close(b @ a, best_of_rank(merged, 4))


def test_dare_drops_and_rescales_by_seed(fusion: Fusion, halves: list[RunFolder]) -> None:
    # Yu et al. 2023, equation 1: entries are dropped at random and the rest scaled up, so that the mean stays.
    [name, *_] = deltas(halves[0])
    exact = sum(deltas(run)[name] for run in halves)
    drawn = [fusion.combine((1.0, 1.0), "dare", seed=seed)[name] for seed in range(40)]
    again = fusion.combine((1.0, 1.0), "dare", seed=3)[name]
    torch.testing.assert_close(again[1] @ again[0], drawn[3][1] @ drawn[3][0])
    mean = torch.stack([b @ a for a, b in drawn]).mean(dim=0)
    one = drawn[0][1] @ drawn[0][0]
    target = best_of_rank(exact, 4)
    assert (mean - target).norm() < 0.6 * (one - target).norm()


def test_a_fused_model_runs_the_sum(fusion: Fusion, halves: list[RunFolder], config: RunConfig) -> None:
    settings = change(config, {"lora.r": 7, "lora.alpha": 7}, "test")
    model = fused_model(fusion, settings)
    place(model, fusion.combine((1.0, 0.0), "weighted", seed=0))
    single = NewsClassifier.load(halves[0].path)
    texts = [text for _, text in only(HALVES[0], articles(30, seed=8))]
    from newslora.data.encoding import encode
    from newslora.model.classifier import predict_logits

    logits = predict_logits(model, encode(texts, model.tokenizer, 128, cache=False))
    own = predict_logits(single.model, encode(texts, model.tokenizer, 128, cache=False))
    assert model.names == (*HALVES[0], *HALVES[1])
    np.testing.assert_allclose(logits[:, :2], own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["weighted", "svd", "ties", "dare"])
def test_two_halves_know_all_topics(method: Any, halves: list[RunFolder], tmp_path: Path) -> None:
    run = fuse([half.path for half in halves], tmp_path / "fused", method)
    classifier = NewsClassifier.load(run.path)
    assert set(classifier.names) == set(TOPICS)
    rows = articles(150, seed=21)
    answers = classifier.predict([text for _, text in rows])
    accuracy = np.mean([answer["label"] == topic for answer, (topic, _) in zip(answers, rows, strict=True)])
    assert accuracy > 0.4  # chance: 0.2
    assert run.card.exists()


def test_a_learned_mixture(halves: list[RunFolder], tmp_path: Path) -> None:
    table = write_table(tmp_path / "few.csv", articles(100, seed=30))
    run = fuse([half.path for half in halves], tmp_path / "fused", "learned", data=str(table))
    rows = articles(150, seed=21)
    answers = NewsClassifier.load(run.path).predict([text for _, text in rows])
    accuracy = np.mean([answer["label"] == topic for answer, (topic, _) in zip(answers, rows, strict=True)])
    assert accuracy > 0.5
    assert len(run.metrics()) == 10
    # What is loaded is what was trained: the mixture is folded into B.
    best = max(run.metrics(), key=lambda row: row["val_macro_f1"])
    assert best["val_macro_f1"] > 0.4


def test_a_mixture_weighs_each_adapters_columns() -> None:
    mixture = Mixture([2, 1])
    with torch.no_grad():
        mixture.weights.copy_(torch.tensor([[0.5], [3.0]]))
    b = torch.randn(4, 3)
    torch.testing.assert_close(mixture(b), torch.cat([0.5 * b[:, :2], 3.0 * b[:, 2:]], dim=1))


def test_the_same_classes_are_averaged(halves: list[RunFolder], config: RunConfig, tmp_path: Path) -> None:
    data = {"data.train": str(write_table(tmp_path / "more.csv", only(HALVES[0], articles(150, seed=50))))}
    other = train(change(config, data | {"lora.r": 3}, "test"), tmp_path / "other")
    run = fuse([halves[0].path, other.path], tmp_path / "fused")
    classifier = NewsClassifier.load(run.path)
    assert classifier.names == HALVES[0]
    rows = only(HALVES[0], articles(100, seed=21))
    answers = classifier.predict([text for _, text in rows])
    assert np.mean([answer["label"] == topic for answer, (topic, _) in zip(answers, rows, strict=True)]) > 0.7


def test_what_does_not_go_together_is_refused(
    halves: list[RunFolder], config: RunConfig, tmp_path: Path, small_run: RunFolder
) -> None:
    with pytest.raises(NewsloraError, match="give two runs or more"):
        fuse([halves[0].path], tmp_path / "fused")
    with pytest.raises(NewsloraError, match="is on another backbone"):
        fuse([halves[0].path, small_run.path], tmp_path / "fused")
    with pytest.raises(NewsloraError, match="give --data FILE"):
        fuse([half.path for half in halves], tmp_path / "fused", "learned")
    with pytest.raises(NewsloraError, match=r"--train\.lr: only a learned mixture is trained"):
        fuse([half.path for half in halves], tmp_path / "fused", overrides={"train.lr": "0.1"})
    table = str(write_table(tmp_path / "three.csv", articles(60, topics=3)))
    with pytest.raises(NewsloraError, match="has the classes Courts, Farming, Shipping, the runs together"):
        fuse([half.path for half in halves], tmp_path / "fused", data=table)
    begun = RunFolder.create(tmp_path / "begun", config)
    with pytest.raises(NewsloraError, match="has no adapter"):
        fuse([halves[0].path, begun.path], tmp_path / "fused")
    data = {"data.train": str(write_table(tmp_path / "d.csv", articles(60))), "lora.dora": True, "train.epochs": 1}
    dora = train(change(config, data, "test"), tmp_path / "dora")
    with pytest.raises(NewsloraError, match="a DoRA update is no sum"):
        fuse([halves[0].path, dora.path], tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
