"""The settings: one frozen, validated tree with the same names in Python, in YAML and on the command line."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ValidationError

from newslora.errors import NewsloraError
from newslora.files import write_text
from newslora.sections import DataConfig, DistillConfig, LoraConfig, ModelConfig, Section, TrainConfig
from newslora.values import nearest, parse_value, read_yaml

__all__ = ["DataConfig", "DistillConfig", "LoraConfig", "ModelConfig", "RunConfig", "TrainConfig", "load_config"]


class RunConfig(Section):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    """The articles."""
    model: ModelConfig = ModelConfig()
    """The backbone and the head."""
    lora: LoraConfig = LoraConfig()
    """The low-rank update."""
    train: TrainConfig = TrainConfig()
    """The optimisation."""
    distill: DistillConfig = DistillConfig()
    """The teacher, if there is one."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "settings") -> Self:
        """Validate nested plain values, as YAML gives them.

        Args:
            values: ``{"lora": {"r": 8}, …}``; what is missing takes its default.
            where: Name of the source, for messages.

        Raises:
            NewsloraError: An unknown key (the nearest known one is named) or a value out of its range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise NewsloraError(f"{where}: {_explain(error)}") from error

    def to_yaml(self) -> str:
        """Return the whole tree as YAML that :func:`load_config` reads back equal."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def save(self, path: Path) -> None:
        """Write the tree as YAML, whole or not at all."""
        write_text(path, self.to_yaml())


def setting_names() -> list[str]:
    """Return every setting's dotted name, in order: ``data.train``, …, ``train.trackers``."""
    sections = RunConfig.model_fields
    return [f"{s}.{name}" for s in sections for name in section_type(s).model_fields]


def check_setting(name: str) -> None:
    """Refuse a dotted name that is no setting.

    Raises:
        NewsloraError: Names the nearest known one.
    """
    if name not in setting_names():
        raise NewsloraError(f"--{name}: unknown setting; {nearest(name, setting_names())}")


def section_type(section: str) -> type[BaseModel]:
    """Return the type of a section of :class:`RunConfig` by name."""
    return type(getattr(RunConfig(), section))


def preset_names() -> list[str]:
    """Return the names of the packaged presets."""
    return sorted(file.name.removesuffix(".yaml") for file in (resources.files("newslora") / "presets").iterdir())


def load_config(
    path: Path | None = None, preset: str | None = None, overrides: Mapping[str, str] | None = None
) -> RunConfig:
    """Resolve the settings: defaults, then a preset, then a YAML file, then single overrides.

    Args:
        path: A YAML file such as a run folder's ``config.yaml``.
        preset: Name of a packaged preset.
        overrides: Dotted names with their values as text: ``{"lora.r": "16"}``.

    Raises:
        NewsloraError: A file that cannot be read, an unknown preset or key, or a value out of its range.
    """
    tree = _read_preset(preset) if preset is not None else {}
    tree = laid_over(tree, read_yaml(path) if path is not None else {})
    values = {name: parse_value(text) for name, text in (overrides or {}).items()}
    return change(RunConfig.from_dict(tree, where=str(path or preset)), values, where="command line")


def laid_over(tree: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of sections with the settings of another one above it."""
    merged = dict(tree)
    for section, content in above.items():
        below = merged.get(section)
        merged[section] = below | content if isinstance(below, dict) and isinstance(content, dict) else content
    return merged


def change(config: RunConfig, values: Mapping[str, Any], where: str) -> RunConfig:
    """Return the settings with others under dotted names.

    Args:
        config: What they were.
        values: ``{"lora.r": 16}``; text is read as on the command line.
        where: Name of the source, for messages.

    Raises:
        NewsloraError: An unknown name, or a value out of its range.
    """
    changed = config.model_dump()
    for name, value in values.items():
        check_setting(name)
        section, _, key = name.partition(".")
        changed[section][key] = value
    return RunConfig.from_dict(changed, where)


def _read_preset(name: str) -> dict[str, Any]:
    if name not in preset_names():
        raise NewsloraError(f"--preset {name}: unknown preset; there are {', '.join(preset_names())}")
    text = (resources.files("newslora") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = setting_names() if "." in name else list(RunConfig.model_fields)
        return f"{name}: unknown setting; {nearest(name, known)}"
    return f"{name}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})"
