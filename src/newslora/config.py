"""The settings: one frozen, validated tree with the same names in Python, in YAML and on the command line."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from newslora.errors import NewsloraError
from newslora.files import write_text
from newslora.values import Count, Layers, Names, Share, nearest, parse_value, read_yaml


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class DataConfig(_Section):
    """Where the articles come from, how they are cleaned, filtered and cut into tokens."""

    train: str = "sample"
    """Training table: a CSV, TSV, JSONL or Parquet file (also .gz), a hub data set's id, or `sample`."""
    validation: str | None = None
    """Validation table; without one, a stratified share of the training rows is set aside."""
    test: str | None = None
    """Test table: read once after training, never used to choose anything."""
    text: Names | None = None
    """Text columns, joined in this order; found by name and content when not given."""
    label: str | None = None
    """Label column; found by name and content when not given."""
    classes: Names | None = None
    """Label names for integer labels, in order (a `classes.txt` beside the file does the same)."""
    train_split: str = "train"
    """Split of a hub data set to train on."""
    validation_split: str = "validation"
    """Split of a hub data set named by `data.validation`."""
    test_split: str = "test"
    """Split of a hub data set named by `data.test`."""
    configuration: str | None = None
    """Configuration (subset) of a hub data set."""
    revision: str | None = None
    """Revision (commit, tag or branch) of a hub data set."""
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the training rows set aside for validation when no validation table is given."""
    limit: Count | None = None
    """Train on this many rows at most, drawn by seed with each class's share kept."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens kept of an article, special tokens included."""
    min_tokens: Annotated[int, Field(ge=0)] = 5
    """Training rows with fewer tokens are dropped (special tokens included)."""
    max_tokens: Count = 512
    """Training rows with more tokens are dropped."""
    min_letters: Share = 0.5
    """Training rows with a smaller share of letters among their non-blank characters are dropped."""
    near_duplicates: bool = True
    """Drop training rows that all but repeat an earlier one (same word shingles after normalising)."""
    drop_agency: bool = False
    """Remove news agencies' names such as "(Reuters)" and "AP -", which give the source away."""


class ModelConfig(_Section):
    """The frozen backbone and the head on its first token."""

    backbone: str = "minilm"
    """Hub id, local folder, or the packaged alias `minilm`."""
    revision: str | None = None
    """Revision (commit, tag or branch) of a hub backbone."""
    head: Literal["full", "lora", "linear"] = "lora"
    """`full`: the stock head is trained; `lora`: LoRA on its dense layer, output layer whole; `linear`: output only."""
    dropout: Share | None = 0.0
    """Dropout in the frozen backbone and the head; `null` keeps the backbone's own."""


class LoraConfig(_Section):
    """The low-rank update of the backbone's linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    targets: Names = ("query", "value")
    """Of query, key, value, attention-output, intermediate, output; or `attention`, `all-linear`."""
    r: Count = 8
    """Rank of the update."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scaling numerator; see `lora.scaling`."""
    scaling: Literal["alpha/r", "rslora", "alpha"] = "alpha/r"
    """Factor on the update: alpha/r (Hu et al., peft), alpha/sqrt(r) (rsLoRA), or the paper's literal alpha."""
    dropout: Share = 0.0
    """Dropout on the input of the low-rank branch."""
    layers: Layers | None = None
    """Layers that get LoRA, such as `3-5`, counted from 0; all when not given."""
    budget: Count = 1_000_000
    """Most trainable parameters allowed, head included."""


class TrainConfig(_Section):
    """The optimisation."""

    epochs: Count = 3
    """Passes over the training rows."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate of AdamW."""
    batch_size: Count = 32
    """Articles a step (of each process, before accumulation)."""
    batch_tokens: Count | None = None
    """Tokens a step at most: batches of short articles grow, of long ones shrink; replaces `train.batch_size`."""
    accumulation: Count = 1
    """Batches whose gradients are averaged before a step."""
    schedule: Literal["cosine", "linear", "constant", "cosine-restarts"] = "cosine"
    """Decay of the learning rate; `cosine-restarts` is SGDR (Loshchilov & Hutter 2017)."""
    warmup: Share = 0.06
    """Share of the steps over which the learning rate rises linearly from 0."""
    restarts: Count = 3
    """Cycles of `cosine-restarts`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay."""
    l2: Annotated[float, Field(ge=0)] = 0.0
    """Factor of an explicit L2 term (l2/2 times the squared norm of the trainable parameters) added to the loss."""
    label_smoothing: Share = 0.0
    """Probability mass spread evenly over all classes in the target."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs each class by the inverse of its frequency."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Greatest norm of the gradient; `null` leaves it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic: `auto` is bf16 on a GPU that has it, fp32 elsewhere."""
    patience: Count | None = None
    """Stop after this many epochs without a better validation result."""
    best_by: Literal["macro_f1", "loss"] = "macro_f1"
    """Validation figure that chooses the epoch to keep."""
    engine: Literal["packed", "padded"] = "packed"
    """`packed` runs articles back to back without padding where the backbone's family allows; `padded` is stock."""
    prefix_cache: bool = True
    """Run the layers below the first LoRA layer once per article and keep their output."""
    warm_head: bool = True
    """Start the output layer from a ridge solution on the frozen features instead of noise."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split, the batches, the initial weights and dropout."""
    trackers: Names = ()
    """Trackers fed through accelerate: tensorboard, wandb, mlflow, trackio."""


class RunConfig(_Section):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    """The articles."""
    model: ModelConfig = ModelConfig()
    """The backbone and the head."""
    lora: LoraConfig = LoraConfig()
    """The low-rank update."""
    train: TrainConfig = TrainConfig()
    """The optimisation."""

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
    for section, content in (read_yaml(path) if path is not None else {}).items():
        below = tree.get(section)
        tree[section] = below | content if isinstance(below, dict) and isinstance(content, dict) else content
    config = RunConfig.from_dict(tree, where=str(path or preset))
    changed = config.model_dump()
    for name, text in (overrides or {}).items():
        check_setting(name)
        section, _, key = name.partition(".")
        changed[section][key] = parse_value(text)
    return RunConfig.from_dict(changed, where="command line")


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
