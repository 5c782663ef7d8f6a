"""Ranks and alphas by target and layer: what the patterns say, what peft builds, what the planner counts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.conftest import INNER, LAYERS, WIDTH, ragged_articles, random_model, tiny_config

from newslora.config import LoraConfig
from newslora.errors import NewsloraError
from newslora.model.adapter import attach
from newslora.model.budget import Planner, count, meta_model
from newslora.model.classifier import load_model, predict_logits
from newslora.model.families import FAMILIES, family_of
from newslora.model.ranks import module_ranks, scale_of
from newslora.model.residual import b_matrices, lora_layers

ROWS = ragged_articles([9, 4, 17, 30])


def ranks_of(kind: str = "bert", **lora: Any) -> dict[str, int]:
    model = meta_model(tiny_config(kind), 3)  # type: ignore[arg-type]
    family = family_of(model.config, kind)  # type: ignore[arg-type]
    found = module_ranks(model, family, LoraConfig(**lora))
    return {name.removeprefix(f"{family.layers}."): rank.r for name, rank in found.items()}


def test_without_patterns_all_are_alike() -> None:
    assert ranks_of(targets=("query",), r=5) == {f"{i}.attention.self.query": 5 for i in range(LAYERS)}


def test_patterns_by_target_layers_and_both_and_the_last_wins() -> None:
    ranks = ranks_of(r=8, ranks={"value": 2, "1-2": 3, "2.query": 9})
    query, value = "attention.self.query", "attention.self.value"
    assert ranks == {
        **{f"0.{query}": 8, f"0.{value}": 2},
        **{f"1.{query}": 3, f"1.{value}": 3},
        **{f"2.{query}": 9, f"2.{value}": 3},
    }


def test_groups_and_fused_modules() -> None:
    assert set(ranks_of(targets=("all-linear",), ranks={"attention": 1, "output": 4}).values()) == {1, 8, 4}
    fused = ranks_of("modernbert", targets=("query", "output"), ranks={"key": 3})
    assert {rank for name, rank in fused.items() if name.endswith("Wqkv")} == {3}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"key": 2}, r"lora\.ranks: 'key' matches no module that LoRA adapts"),
        ({"9": 2}, r"lora\.ranks: '9' matches no module"),
        ({"1.key": 2}, r"lora\.ranks: '1\.key' matches no module"),
        ({"querry": 2}, r"lora\.ranks: 'querry' names neither targets nor layers; write a target \(value\), layers"),
        ({"3-1": 2}, r"lora\.ranks: '3-1' names neither"),
        ({"1.foo": 2}, r"lora\.ranks: '1\.foo' names neither"),
    ],
)
def test_a_pattern_that_means_nothing_is_named(patterns: dict[str, int], message: str) -> None:
    with pytest.raises(NewsloraError, match=message):
        ranks_of(ranks=patterns)


@pytest.mark.parametrize(("scaling", "factor"), [("alpha/r", 3.0), ("rslora", 6.0), ("alpha", 12.0)])
def test_scales(scaling: str, factor: float) -> None:
    assert scale_of(scaling, 4, 12.0) == factor


@pytest.mark.parametrize("scaling", ["alpha/r", "rslora", "alpha"])
def test_every_module_gets_its_own_rank_and_factor(scaling: str, tiny_backbone: Callable[[str], Path]) -> None:
    lora = {"r": 4, "alpha": 12, "scaling": scaling, "ranks": {"value": 9}, "alphas": {"0.value": 3}}
    model = random_model(tiny_backbone("bert"), lora=lora)
    names = {id(module): name for name, module in model.plain.named_modules()}
    for layer in lora_layers(model):
        name = names[id(layer)]
        r, alpha = (9, 3.0 if ".0." in name else 12.0) if name.endswith("value") else (4, 12.0)
        factor = {"alpha/r": alpha / r, "rslora": alpha / math.sqrt(r), "alpha": alpha}[scaling]
        assert layer.lora_A["default"].weight.shape == (r, WIDTH)
        assert layer.scaling["default"] == pytest.approx(factor)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("dora", [False, True])
def test_the_planner_counts_what_is_built(kind: str, dora: bool) -> None:
    lora = LoraConfig(targets=("all-linear",), r=3, ranks={"1": 5, "output": 2}, layers=(0, 1), dora=dora)
    planner = Planner(tiny_config(kind), 3, kind)  # type: ignore[arg-type]
    for head in ("full", "lora", "linear"):
        model: Any = meta_model(tiny_config(kind), 3)  # type: ignore[arg-type]
        with torch.device("meta"):
            built = attach(model, FAMILIES[kind], lora, head)
        assert planner.settings(lora, head).trainable == count(built).trainable


def test_known_count_of_a_pattern() -> None:
    planner = Planner(tiny_config("bert"), 3, "it")  # type: ignore[arg-type]
    lora = LoraConfig(targets=("query", "intermediate"), r=2, ranks={"intermediate": 1})
    assert planner.settings(lora, "linear").lora == LAYERS * (2 * 2 * WIDTH + WIDTH + INNER)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "mpnet"])
def test_a_saved_pattern_loads_to_the_same_logits(
    kind: str, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    lora = {"targets": "all-linear", "r": 3, "ranks": {"1": 5, "output": 2}, "alphas": {"output": 1}}
    model = random_model(tiny_backbone(kind), lora=lora)
    expected = predict_logits(model, ROWS)
    model.save_adapter(tmp_path / "adapter")
    loaded = predict_logits(load_model(tmp_path / "adapter"), ROWS)
    torch.testing.assert_close(torch.tensor(loaded), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_every_b_matrix_is_found_the_heads_too(tiny_backbone: Callable[[str], Path]) -> None:
    model = random_model(tiny_backbone("bert"), lora={"r": 2, "targets": "query,value"}, model={"head": "lora"})
    shapes = [tuple(matrix.shape) for matrix in b_matrices(model)]
    assert shapes == [(WIDTH, 2)] * (2 * LAYERS + 1)
