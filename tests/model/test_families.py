"""Each family's names stand for real modules, and the user's names for the right ones."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, BertConfig, GPT2Config, T5Config

from newslora.errors import NewsloraError
from newslora.model.budget import meta_model
from newslora.model.families import (
    FAMILIES,
    GROUPS,
    TARGETS,
    chosen_layers,
    expand_targets,
    family_of,
    linear_modules,
)


def built(kind: str) -> nn.Module:
    return meta_model(AutoConfig.for_model(kind), 3)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_name_of_a_family_is_a_module_of_its_published_shape(kind: str) -> None:
    model, family = built(kind), FAMILIES[kind]
    layers = list(model.get_submodule(family.layers).children())
    width, inner = model.config.hidden_size, model.config.intermediate_size if kind != "distilbert" else 3072
    fused, gated = (3, 2) if kind == "modernbert" else (1, 1)
    shapes = {
        **dict.fromkeys(("query", "key", "value"), (fused * width, width)),
        "attention-output": (width, width),
        "intermediate": (gated * inner, width),
        "output": (width, inner),
    }
    for layer in layers:
        for target, path in family.modules.items():
            assert layer.get_submodule(path).weight.shape == shapes[target], target
        if family.style == "post-norm":
            assert isinstance(layer.get_submodule(family.attention_norm), nn.LayerNorm)
            assert isinstance(layer.get_submodule(family.output_norm), nn.LayerNorm)
    assert len(layers) == model.config.num_hidden_layers
    assert model.get_submodule(family.head_output).out_features == 3
    assert model.get_submodule(family.head_dense).in_features == width


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_heads_modules_hold_every_parameter_outside_the_encoder(kind: str) -> None:
    model, family = built(kind), FAMILIES[kind]
    encoder = f"{model.base_model_prefix}."
    outside = {name for name, _ in model.named_parameters() if not name.startswith(encoder)}
    in_head = {name for name, _ in model.named_parameters() if set(name.split(".")) & set(family.head_modules)}
    assert outside <= in_head
    assert in_head - outside <= {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert family.head_output.split(".")[0] == family.head_modules[0]


@pytest.mark.parametrize("config", [GPT2Config(), T5Config(), BertConfig(is_decoder=True)])
def test_what_is_no_encoder_is_refused_with_the_families_named(config: object) -> None:
    with pytest.raises(NewsloraError, match=r"some/model: a '\w+' model is not an encoder .* give one of the families"):
        family_of(config, "some/model")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "targets"),
    [
        (["value", "query"], ("query", "value")),
        (["attention"], ("query", "key", "value", "attention-output")),
        (["all-linear"], TARGETS),
        (["attention", "output", "query"], ("query", "key", "value", "attention-output", "output")),
    ],
)
def test_targets_and_groups_expand_in_one_order(names: list[str], targets: tuple[str, ...]) -> None:
    assert expand_targets(names) == targets


@pytest.mark.parametrize("names", [["qkv"], ["query", "dense"], [""], ["classifier"]])
def test_a_target_that_matches_nothing_is_refused(names: list[str]) -> None:
    with pytest.raises(
        NewsloraError, match=r"lora\.targets: '.*' matches no linear layer; choose from query, .*linear"
    ):
        expand_targets(names)


def test_no_targets_at_all_are_refused() -> None:
    with pytest.raises(NewsloraError, match=r"lora\.targets: is empty; choose from query"):
        expand_targets([])


def test_layers_are_all_or_the_chosen_ones_once_and_in_order() -> None:
    assert chosen_layers(3, None) == (0, 1, 2)
    assert chosen_layers(6, (5, 3, 3)) == (3, 5)


@pytest.mark.parametrize("layers", [(), (6,), (-1, 2), (0, 99)])
def test_layers_that_the_backbone_lacks_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(NewsloraError, match=r"lora\.layers: .* are not layers of this backbone; it has 0 to 5"):
        chosen_layers(6, layers)


def test_a_fused_module_is_adapted_once() -> None:
    names = linear_modules(built("modernbert"), FAMILIES["modernbert"], ["query", "key", "output"], [1])
    assert names == ["model.layers.1.attn.Wqkv", "model.layers.1.mlp.Wo"]


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("group", GROUPS)
def test_the_names_given_to_peft_are_linear_modules_of_the_encoder(kind: str, group: str) -> None:
    model, family = built(kind), FAMILIES[kind]
    names = linear_modules(model, family, [group], None)
    distinct = len({family.modules[target] for target in GROUPS[group]})
    assert len(set(names)) == len(names) == distinct * model.config.num_hidden_layers
    assert all(isinstance(model.get_submodule(name), torch.nn.Linear) for name in names)
