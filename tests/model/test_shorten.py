"""A backbone of which some layers are kept is that backbone with the others left out, saved, loaded and counted."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import peft
import pytest
import torch
from tests.model.conftest import LAYERS, ragged_articles, random_model, tiny_config
from transformers import AutoConfig, AutoModelForSequenceClassification

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.model.adapter import quiet
from newslora.model.backbone import quiet_transformers
from newslora.model.budget import Planner
from newslora.model.classifier import build_model, load_model, predict_logits
from newslora.model.eva import padded
from newslora.model.families import FAMILIES
from newslora.model.residual import lora_layers
from newslora.model.shorten import even_layers, shorten_config

ROWS = ragged_articles([9, 4, 17, 30])
NAMES = ("a", "b", "c")


@pytest.mark.parametrize(
    ("count", "keep", "layers"),
    [(6, 3, (0, 2, 5)), (6, 6, (0, 1, 2, 3, 4, 5)), (12, 6, (0, 2, 4, 7, 9, 11)), (12, 1, (11,)), (4, 2, (0, 3))],
)
def test_layers_are_evenly_spaced(count: int, keep: int, layers: tuple[int, ...]) -> None:
    assert even_layers(count, keep) == layers


def test_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(NewsloraError, match="--layers: 7 of a backbone with 6 layers; give 1 to 6"):
        even_layers(6, 7)


@pytest.mark.parametrize("layers", [(), (1, 0), (0, 0), (0, LAYERS)])
def test_layers_that_are_none_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(NewsloraError, match=r"model\.layers: .* it has 0 to 2"):
        shorten_config(AutoConfig.for_model("bert", num_hidden_layers=LAYERS), layers)


def test_modernberts_first_layer_stays() -> None:
    with pytest.raises(NewsloraError, match=r"model\.layers: modernbert's layer 0"):
        shorten_config(tiny_config("modernbert"), (1, 2))  # type: ignore[arg-type]


def reference(backbone: Path, kind: str) -> torch.nn.Module:
    """The backbone with its middle layer skipped, by transformers alone."""
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=3).eval()
    layers = model.get_submodule(FAMILIES[kind].layers)
    del layers[1]
    return model


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_shortened_model_is_the_backbone_without_a_layer(
    kind: str, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = {"model": {"backbone": str(tiny_backbone(kind)), "layers": "0,2", "head": "full"}}
    model = build_model(RunConfig.from_dict(settings), NAMES).eval()
    assert model.plain.config.num_hidden_layers == 2
    plain = reference(tiny_backbone(kind), kind)
    plain.load_state_dict({**plain.state_dict(), **_head(model, kind)})
    inputs = padded(model, ROWS, torch.arange(len(ROWS)).numpy())
    with torch.no_grad():
        expected = plain(**inputs).logits
    torch.testing.assert_close(torch.tensor(predict_logits(model, ROWS)), expected, rtol=1e-4, atol=1e-4)


def _head(model: torch.nn.Module, kind: str) -> dict[str, torch.Tensor]:
    head = {}
    for key, tensor in model.plain.state_dict().items():  # type: ignore[union-attr, operator]
        if ".modules_to_save.default." in key:
            head[key.replace(".modules_to_save.default.", ".")] = tensor
    return head


@pytest.mark.parametrize("init", ["default", "pissa"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_saved_and_loaded_by_us_and_by_plain_peft(
    kind: str, init: str, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = {"layers": "0,2", "head": "full"}
    model = random_model(tiny_backbone(kind), NAMES, model=settings, lora={"targets": "all-linear", "init": init})
    expected = torch.tensor(predict_logits(model, ROWS))
    model.save_adapter(tmp_path / "adapter")
    loaded = load_model(tmp_path / "adapter")
    assert len(list(lora_layers(loaded))) == len(list(lora_layers(model)))
    torch.testing.assert_close(torch.tensor(predict_logits(loaded, ROWS)), expected, rtol=1e-4, atol=1e-4)
    with quiet(), quiet_transformers():
        plain = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
    inputs = padded(loaded, ROWS, torch.arange(len(ROWS)).numpy())
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_short_backbone_and_a_whole_one_are_not_mixed_up(
    tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    short = random_model(tiny_backbone("bert"), NAMES, model={"layers": "0,2"})
    assert short.identity["layers"] == "0,2"
    assert "layers" not in random_model(tiny_backbone("bert"), NAMES).identity


def test_the_planner_counts_a_short_configuration() -> None:
    whole, short = tiny_config("bert"), shorten_config(deepcopy(tiny_config("bert")), (0, 2))  # type: ignore[arg-type]
    counts = [Planner(config, 3, "it").lora(("query",), 4) for config in (whole, short)]  # type: ignore[arg-type]
    assert counts[1] * LAYERS == counts[0] * 2
