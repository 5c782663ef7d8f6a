"""The search space: settings' dotted names with the values to try, in the section ``search`` of a settings file."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from newslora.config import RunConfig, change, check_setting, laid_over
from newslora.errors import NewsloraError
from newslora.values import parse_value, read_yaml

if TYPE_CHECKING:
    import optuna

RATIO = "lora.alpha/r"
"""Stands for ``lora.alpha`` as a multiple of ``lora.r``."""
# What the trials are measured by, which they cannot choose.
_MEASURE = {"data.label", "data.classes", "lora.budget", "train.best_by", "train.trackers"}
_MEASURE |= {f"data.{side}{part}" for side in ("validation", "test") for part in ("", "_split", "_share")}
# These leave the validation rows that are set aside from the training table as they are; other data settings do not.
_SAME_ROWS = {"data.limit", "data.max_length"}
_OTHER_ROWS = {"train.seed", "model.backbone", "model.revision"}


class Range(BaseModel):
    """Numbers from ``low`` to ``high``, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must lie below high, and above 0 where log is true")
        return self


Dimension = Range | tuple[str | int | float | bool | None, ...]


@dataclass(frozen=True)
class Space:
    """Settings with the values that some of them may take.

    Attributes:
        base: All other settings.
        dimensions: Dotted names with a range, or the values to choose from.
    """

    base: RunConfig
    dimensions: Mapping[str, Dimension]

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination; none where a dimension is a range."""
        values = list(self.dimensions.values())
        if any(isinstance(dimension, Range) for dimension in values):
            return []
        return [dict(zip(self.dimensions, chosen, strict=True)) for chosen in itertools.product(*values)]

    def suggest(self, trial: "optuna.Trial") -> dict[str, Any]:
        """Return the values that Optuna gives a trial."""
        return {name: _suggest(trial, name, dimension) for name, dimension in self.dimensions.items()}

    def config(self, values: Mapping[str, Any]) -> RunConfig:
        """Return the settings with these values in place."""
        plain = {name: value for name, value in values.items() if name != RATIO}
        config = change(self.base, plain, "search")
        return change(config, {"lora.alpha": values[RATIO] * config.lora.r}, "search") if RATIO in values else config

    def describe(self) -> dict[str, Any]:
        """Return the space as plain JSON values; two sweeps of one description may share their trials."""
        dimensions = {name: d.model_dump() if isinstance(d, Range) else list(d) for name, d in self.dimensions.items()}
        base = self.base.model_dump(mode="json")
        for name in ("test", "test_split"):
            base["data"].pop(name)
        return {"settings": base, "search": dimensions}


def search_presets() -> list[str]:
    """Return the names of the packaged sweeps."""
    files = (file.name for file in resources.files("newslora.search").iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def read_space(path: Path | None, preset: str | None, overrides: Mapping[str, str]) -> Space:
    """Read a settings file with a section ``search``, on top of a preset, under single settings.

    Args:
        path: A YAML file of settings: ``search: {lora.r: [4, 8], train.lr: {low: 1e-4, high: 1e-2, log: true}}``.
        preset: One of :func:`search_presets`.
        overrides: Dotted names with their values as text.

    Raises:
        NewsloraError: A file that cannot be read, an unknown setting or preset, a value out of its range, nothing to
            search, or something that would change what the trials are measured by.
    """
    tree = _preset(preset) if preset is not None else {}
    tree = laid_over(tree, read_yaml(path) if path is not None else {})
    raw, where = tree.pop("search", None), f"{path or preset}: search"
    if not isinstance(raw, dict) or not raw:
        raise NewsloraError(f"{where}: names no setting to search; give search: {{lora.r: [4, 8, 16]}} or the like")
    base = RunConfig.from_dict(tree, str(path or preset))
    base = change(base, {name: parse_value(text) for name, text in overrides.items()}, "command line")
    space = Space(base, {str(name): _dimension(str(name), value, where) for name, value in raw.items()})
    _check(space, where)
    return space


def _preset(name: str) -> dict[str, Any]:
    if name not in search_presets():
        raise NewsloraError(f"--preset {name}: unknown sweep; there is {', '.join(search_presets())}")
    text = (resources.files("newslora.search") / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _dimension(name: str, value: object, where: str) -> Dimension:
    if isinstance(value, list) and value:
        # Optuna chooses among plain values: a list of names is what the command line takes for it.
        return tuple(",".join(map(str, item)) if isinstance(item, list) else item for item in value)
    try:
        return Range.model_validate(value)
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise NewsloraError(f"{where}: {name}: give a list of values or {{low, high, log}} ({reason})") from error


def _suggest(trial: "optuna.Trial", name: str, dimension: Dimension) -> str | int | float | bool | None:
    if not isinstance(dimension, Range):
        chosen: str | int | float | bool | None = trial.suggest_categorical(name, dimension)
        return chosen
    if _whole(name, dimension):
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)


def _whole(name: str, dimension: Range) -> bool:
    section, _, key = name.partition(".")
    default = None if name == RATIO else getattr(getattr(RunConfig(), section), key)
    numbers = isinstance(dimension.low, int) and isinstance(dimension.high, int)
    return numbers and name != RATIO and not isinstance(default, float)


def _check(space: Space, where: str) -> None:
    if RATIO in space.dimensions and "lora.alpha" in space.dimensions:
        raise NewsloraError(f"{where}: lora.alpha and {RATIO} are one setting; give one of them")
    for name, dimension in space.dimensions.items():
        try:
            if name != RATIO:
                check_setting(name)
        except NewsloraError as error:
            raise NewsloraError(f"{where}: {str(error).removeprefix('--')}") from error
        _check_measure(space.base, name, where)
        values = (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension
        for value in values:
            _check_value(space, name, value, where)


def _check_measure(base: RunConfig, name: str, where: str) -> None:
    if name in _MEASURE:
        raise NewsloraError(f"{where}: {name} decides what the trials are measured by; leave it out")
    moves = name in _OTHER_ROWS or (name.startswith("data.") and name not in _SAME_ROWS)
    if moves and base.data.validation is None:
        raise NewsloraError(f"{where}: {name} changes which rows are set aside for validation; give data.validation")


def _check_value(space: Space, name: str, value: object, where: str) -> None:
    if name == RATIO and (not isinstance(value, int | float) or value <= 0):
        raise NewsloraError(f"{where}: {name}: {value!r} is not a number above 0")
    try:
        space.config({name: value})
    except NewsloraError as error:
        raise NewsloraError(f"{where}: {str(error).removeprefix('search: ')}") from error
