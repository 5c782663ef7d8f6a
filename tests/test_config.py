"""Settings: the same names everywhere, whatever is wrong named with what would be right."""

import difflib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from newslora.config import (
    DataConfig,
    LoraConfig,
    RunConfig,
    TrainConfig,
    check_setting,
    load_config,
    preset_names,
    section_type,
    setting_names,
)
from newslora.errors import NewsloraError


def refusal(tree: dict[str, Any]) -> str:
    with pytest.raises(NewsloraError) as caught:
        RunConfig.from_dict(tree, "here.yaml")
    message = str(caught.value)
    assert message.startswith("here.yaml: ")
    assert "\n" not in message
    return message.removeprefix("here.yaml: ")


def test_the_defaults_stand_for_an_empty_tree() -> None:
    assert load_config() == RunConfig() == RunConfig.from_dict({})
    assert RunConfig().lora == LoraConfig(targets=("query", "value"), r=8, alpha=16.0, scaling="alpha/r")
    assert RunConfig().lora.budget == 1_000_000
    assert RunConfig().data.max_length == 128


def test_every_setting_says_what_it_is() -> None:
    for name in setting_names():
        section, _, key = name.partition(".")
        assert section_type(section).model_fields[key].description, name


def test_names_are_sections_and_settings_in_order() -> None:
    names = setting_names()
    assert names[0] == "data.train"
    assert "lora.r" in names
    assert len(set(names)) == len(names)
    assert section_type("train") is TrainConfig
    assert section_type("data") is DataConfig


def test_a_tree_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().lora.r = 3  # type: ignore[misc]


trees = st.fixed_dictionaries(
    {},
    optional={
        "data": st.fixed_dictionaries(
            {},
            optional={
                "train": st.text(max_size=20),
                "text": st.none() | st.lists(st.text("abc é:#'\"-", min_size=1, max_size=5), min_size=1).map(tuple),
                "validation_share": st.floats(0.01, 0.99),
                "limit": st.none() | st.integers(1, 10**9),
            },
        ),
        "lora": st.fixed_dictionaries(
            {},
            optional={
                "alpha": st.floats(1e-9, 1e9),
                "layers": st.none() | st.lists(st.integers(0, 30), min_size=1).map(tuple),
                "scaling": st.sampled_from(["alpha/r", "rslora", "alpha"]),
            },
        ),
        "train": st.fixed_dictionaries(
            {},
            optional={"lr": st.floats(1e-12, 10), "clip": st.none() | st.floats(0.1, 9), "prefix_cache": st.booleans()},
        ),
    },
)


@given(trees)
def test_yaml_and_back_gives_an_equal_tree(tree: dict[str, Any]) -> None:
    config = RunConfig.from_dict(tree)
    assert RunConfig.from_dict(yaml.safe_load(config.to_yaml())) == config


def test_a_saved_file_loads_equal(tmp_path: Path) -> None:
    config = RunConfig.from_dict(
        {"lora": {"r": 5, "layers": [1, 2]}, "data": {"classes": ["Sport", "Wirtschaft & Geld"]}}
    )
    config.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("name", preset_names())
def test_presets_load_and_write_no_setting_that_is_the_default(name: str) -> None:
    config = load_config(preset=name)
    assert RunConfig.from_dict(yaml.safe_load(config.to_yaml())) == config
    assert config != RunConfig()


def test_the_papers_presets_hold_the_papers_settings() -> None:
    assert set(preset_names()) == {"paper-r8", "paper-r16", "quickstart"}
    for r in (8, 16):
        config = load_config(preset=f"paper-r{r}")
        assert (config.lora.r, config.lora.alpha, config.lora.targets) == (r, 2 * r, ("query", "value"))
        assert config.model.backbone == "roberta-base"
        assert config.data.train == "fancyzhx/ag_news"


@pytest.mark.parametrize(
    ("tree", "hint"),
    [
        ({"lora": {"rnk": 8, "r": 4}}, "lora.rnk: unknown setting; did you mean lora.r?"),
        ({"train": {"epoch": 3}}, "train.epoch: unknown setting; did you mean train.epochs?"),
        ({"data": {"max_lenght": 3}}, "data.max_lenght: unknown setting; did you mean data.max_length?"),
        ({"modle": {}}, "modle: unknown setting; did you mean model?"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(tree: dict[str, Any], hint: str) -> None:
    assert difflib.get_close_matches(refusal(tree), [hint], cutoff=0.8) == [hint]


def test_a_key_like_no_other_lists_what_there_is() -> None:
    assert refusal({"zzzzzz": 1}) == "zzzzzz: unknown setting; known: data, model, lora, train, distill"


@pytest.mark.parametrize(
    ("section", "values", "complaint"),
    [
        ("lora", {"r": 0}, r"lora\.r: Input should be greater than 0 \(got 0\)"),
        ("lora", {"r": 2.5}, r"lora\.r: .*integer"),
        ("lora", {"r": "eight"}, r"lora\.r: .*integer.* \(got 'eight'\)"),
        ("lora", {"scaling": "beta"}, r"lora\.scaling: Input should be 'alpha/r', 'rslora' or 'alpha'"),
        ("lora", {"layers": "1-"}, r"lora\.layers: give layer numbers such as 3-5 or 0,2,4-6 \(got '1-'\)"),
        ("lora", {"layers": "5-3"}, r"lora\.layers: give layer numbers"),
        ("lora", {"layers": "-1"}, r"lora\.layers: give layer numbers"),
        ("lora", {"layers": "top"}, r"lora\.layers: give layer numbers"),
        ("train", {"lr": -1}, r"train\.lr: .*greater than 0"),
        ("train", {"warmup": 1.0}, r"train\.warmup: .*less than 1"),
        ("train", {"warm_head": "perhaps"}, r"train\.warm_head: .*boolean"),
        ("data", {"max_length": 3}, r"data\.max_length: .*greater than or equal to 4"),
        ("data", {"train": None}, r"data\.train: .*string"),
        ("model", {"head": "big"}, r"model\.head: .*'full', 'lora' or 'linear'"),
        ("model", 3, r"model: .*\(got 3\)"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(section: str, values: object, complaint: str) -> None:
    assert re.match(complaint, refusal({section: values}))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lora.r", "16", 16),
        ("train.lr", "3e-4", 3e-4),
        ("train.warm_head", "no", False),
        ("train.prefix_cache", "true", True),
        ("train.clip", "null", None),
        ("model.dropout", "none", None),
        ("data.text", "headline, body", ("headline", "body")),
        ("data.classes", "World,Sci/Tech", ("World", "Sci/Tech")),
        ("train.trackers", "", ()),
        ("lora.targets", "all-linear", ("all-linear",)),
        ("lora.layers", "3", (3,)),
        ("lora.layers", "3-5", (3, 4, 5)),
        ("lora.layers", "0, 2,4-6", (0, 2, 4, 5, 6)),
        ("lora.layers", "null", None),
        ("data.train", "123", "123"),
        ("model.revision", "1e5", "1e5"),
    ],
)
def test_a_single_setting_given_as_text(name: str, text: str, value: object) -> None:
    section, _, key = name.partition(".")
    config = load_config(overrides={name: text})
    assert getattr(getattr(config, section), key) == value
    assert len([n for n in setting_names() if value_of(config, n) != value_of(RunConfig(), n)]) <= 1


def value_of(config: RunConfig, name: str) -> object:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


def test_preset_then_file_then_single_settings(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("lora: {r: 4, alpha: 4}\ntrain: {epochs: 2}\n")
    config = load_config(file, preset="paper-r8", overrides={"lora.r": "2"})
    assert (config.lora.r, config.lora.alpha, config.train.epochs) == (2, 4.0, 2)
    assert config.train.lr == load_config(preset="paper-r8").train.lr  # untouched keys of a section stay
    assert config.data == load_config(preset="paper-r8").data


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lora.rank": "2"}, "--lora.rank: unknown setting; did you mean lora.targets?"),
        ({"r": "2"}, "--r: unknown setting"),
        ({"lora.r": "0"}, "command line: lora.r: Input should be greater than 0 (got '0')"),
        ({"train.epochs": "null"}, "command line: train.epochs: Input should be a valid integer (got None)"),
    ],
)
def test_a_wrong_single_setting_is_blamed_on_the_command_line(
    overrides: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "fine.yaml").write_text("lora: {r: 4}\n")
    with pytest.raises(NewsloraError) as caught:
        load_config(tmp_path / "fine.yaml", overrides=overrides)
    assert str(caught.value).startswith(message.partition("; did")[0])


def test_check_setting_lets_known_names_pass() -> None:
    check_setting("train.lr")
    with pytest.raises(NewsloraError, match=r"--train\.lrr: unknown setting; did you mean train\.lr\?"):
        check_setting("train.lrr")


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(NewsloraError, match="--preset papr: unknown preset; there are paper-r16, paper-r8, quickstart"):
        load_config(preset="papr")


def test_the_file_is_named_when_a_value_in_it_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("lora: {r: -1}\n")
    with pytest.raises(NewsloraError, match=rf"^{re.escape(str(tmp_path))}/c\.yaml: lora\.r: "):
        load_config(tmp_path / "c.yaml")
