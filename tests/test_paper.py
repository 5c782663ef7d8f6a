"""The figures and settings in ``docs/paper.md`` are those of the code."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from newslora.config import load_config
from newslora.model.backbone import load_config as load_backbone_config
from newslora.model.budget import Planner

PAPER = (Path(__file__).parents[1] / "docs" / "paper.md").read_text(encoding="utf-8")
PRESETS = ("paper-r8", "paper-r16")
BUDGET = 1_000_000


def table(first_column: str) -> list[list[str]]:
    """Return the cells of the table whose header starts with ``first_column``, without the header."""
    lines = PAPER.split(f"| {first_column} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


SETTINGS = {row[0].strip("`"): dict(zip(PRESETS, row[2:4], strict=True)) for row in table("setting")}


@pytest.mark.parametrize("row", table("LoRA on"), ids=" ".join)
def test_counts_are_the_planners_and_bold_where_over_the_budget(row: list[str]) -> None:
    planner = Planner(load_backbone_config("roberta-base"), 4, "roberta-base")
    for r, cell in zip((8, 16), row[2:], strict=True):
        plan = planner.plan(tuple(row[0].split(",")), row[1], r, BUDGET)
        assert cell == (f"{plan.trainable:,}" if plan.fits else f"**{plan.trainable:,}**")


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_are_the_presets(preset: str) -> None:
    config: Any = load_config(preset=preset)
    shown = {name: yaml.safe_load(cells[preset]) for name, cells in SETTINGS.items()}
    for name, value in shown.items():
        section, _, key = name.partition(".")
        actual = getattr(getattr(config, section), key)
        assert _plain(value) == _plain(actual), name


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_changes_is_listed(preset: str) -> None:
    plain, config = load_config().model_dump(), load_config(preset=preset).model_dump()
    changed = {f"{s}.{key}" for s, values in config.items() for key in values if values[key] != plain[s][key]}
    assert changed <= SETTINGS.keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_the_papers_budget(preset: str) -> None:
    config = load_config(preset=preset)
    planner = Planner(load_backbone_config(config.model.backbone), 4, config.model.backbone)
    plan = planner.plan(config.lora.targets, config.model.head, config.lora.r, config.lora.budget)
    assert plan.fits
    assert plan.trainable == {"paper-r8": 888_580, "paper-r16": 617_476}[preset]


def test_settings_named_in_the_text_exist() -> None:
    named = set(re.findall(r"--((?:data|model|lora|train)\.\w+)", PAPER))
    known = {f"{s}.{key}" for s, values in load_config().model_dump().items() for key in values}
    assert named <= known


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return ",".join(value)
    return float(value) if isinstance(value, str) and re.fullmatch(r"\de-\d", value) else value
