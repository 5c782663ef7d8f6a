"""Search spaces: read from the settings' own tree, and nothing in them that the trials are measured by."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from newslora.errors import NewsloraError
from newslora.search.space import Range, read_space, search_presets

MakeSpace = Any
RANGE = {"low": 1e-4, "high": 1e-2, "log": True}


def test_a_space_is_base_settings_and_dimensions(make_space: MakeSpace) -> None:
    space = make_space({"lora.r": [2, 4], "train.lr": RANGE}, lora={"targets": ["value"]})
    assert space.base.lora.targets == ("value",)
    assert space.dimensions == {"lora.r": (2, 4), "train.lr": Range(low=1e-4, high=1e-2, log=True)}
    config = space.config({"lora.r": 4, "train.lr": 5e-3})
    assert (config.lora.r, config.train.lr, config.lora.targets) == (4, 5e-3, ("value",))


def test_yaml_numbers_without_a_point_are_numbers(make_space: MakeSpace) -> None:
    space = make_space({"train.lr": {"low": "1e-4", "high": "1e-2"}})
    assert space.dimensions["train.lr"] == Range(low=1e-4, high=1e-2)


def test_alpha_as_a_multiple_of_the_rank(make_space: MakeSpace) -> None:
    space = make_space({"lora.r": [2, 8], "lora.alpha/r": [1, 4]})
    assert [(space.config(v).lora.r, space.config(v).lora.alpha) for v in space.grid()] == [
        *((2, 2.0), (2, 8.0), (8, 8.0), (8, 32.0))
    ]
    assert make_space({"lora.alpha/r": [3]}, lora={"r": 5}).config({"lora.alpha/r": 3}).lora.alpha == 15.0


def test_a_range_has_no_grid_and_lists_are_choices(make_space: MakeSpace) -> None:
    assert make_space({"train.lr": RANGE, "lora.r": [1]}).grid() == []
    space = make_space({"lora.targets": [["query", "value"], ["all-linear"]]})
    assert [space.config(values).lora.targets for values in space.grid()] == [("query", "value"), ("all-linear",)]


def test_suggestions_keep_to_the_space(make_space: MakeSpace) -> None:
    search = {"lora.r": {"low": 1, "high": 64, "log": True}, "train.lr": RANGE, "model.head": ["lora", "linear"]}
    space = make_space(search | {"lora.alpha": {"low": 1, "high": 3}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(20):
        values = space.suggest(study.ask())
        assert values.keys() == space.dimensions.keys()
        assert isinstance(values["lora.r"], int)
        assert 1 <= values["lora.r"] <= 64
        assert 1e-4 <= values["train.lr"] <= 1e-2
        assert isinstance(values["lora.alpha"], float)
        assert space.config(values).model.head in ("lora", "linear")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({}, r"names no setting to search"),
        ({"lora.rank": [4]}, r"lora\.rank: unknown setting; did you mean lora\.\w+\?"),
        ({"lora.r": [4, 0]}, r"lora\.r: Input should be greater than 0 \(got 0\)"),
        ({"lora.r": 4}, r"lora\.r: give a list of values or \{low, high, log\}"),
        ({"lora.r": []}, r"lora\.r: give a list of values"),
        ({"lora.r": {"low": 8, "high": 2}}, r".*low must lie below high"),
        ({"train.lr": {"low": 0, "high": 2, "log": True}}, r".*above 0 where log is true"),
        ({"train.lr": {"low": 1e-3, "high": 1, "step": 2}}, r"train\.lr: give a list .*xtra"),
        ({"train.lr": {"low": -1, "high": 1}}, r"train\.lr: Input should be greater than 0"),
        ({"lora.alpha": [4], "lora.alpha/r": [1]}, r"lora\.alpha and lora\.alpha/r are one setting"),
        ({"lora.alpha/r": ["x"]}, r"lora\.alpha/r: 'x' is not a number above 0"),
        ({"lora.budget": [10]}, r"lora\.budget decides what the trials are measured by"),
        ({"data.test": ["a.csv"]}, r"data\.test decides"),
    ],
)
def test_a_faulty_space_is_named(search: dict[str, Any], message: str, make_space: MakeSpace) -> None:
    with pytest.raises(NewsloraError, match=rf"space\.yaml: search: {message}"):
        make_space(search)


@pytest.mark.parametrize("name", ["train.seed", "data.min_tokens", "data.drop_agency"])
def test_what_moves_the_validation_rows_needs_a_table_of_them(name: str, make_space: MakeSpace) -> None:
    values = [True, False] if name == "data.drop_agency" else [1, 2]
    assert make_space({name: values}).grid()
    with pytest.raises(NewsloraError, match=f"{name} changes which rows are set aside"):
        make_space({name: values}, data={"validation": None})
    assert make_space({"data.limit": [1, 2]}, data={"validation": None}).grid()


def test_the_papers_grid_is_packaged(tmp_path: Path) -> None:
    assert search_presets() == ["paper-grid"]
    file = tmp_path / "mine.yaml"
    file.write_text("data: {train: sample}\nmodel: {backbone: minilm}\n")
    space = read_space(file, "paper-grid", {"train.epochs": "1"})
    assert len(space.grid()) == 15
    assert (space.base.data.train, space.base.model.backbone, space.base.train.epochs) == ("sample", "minilm", 1)
    assert {space.config(values).lora.r for values in space.grid()} == {2, 4, 8, 16, 32}
    with pytest.raises(NewsloraError, match="--preset paper-gird: unknown sweep; there is paper-grid"):
        read_space(None, "paper-gird", {})
