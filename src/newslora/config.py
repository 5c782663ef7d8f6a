"""The settings: one frozen, validated tree with the same names in Python, in YAML and on the command line."""

import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from newslora.errors import NewsloraError
from newslora.files import write_text


def _listed(value: object) -> object:
    """Read ``a,b`` from a command line as the list it stands for."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _layer_list(value: object) -> object:
    """Read ``3-5`` and ``0,2,4-6`` as layer numbers."""
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, str):
        return value
    numbers: list[int] = []
    for part in value.split(","):
        first, _, last = part.strip().partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Layers = Annotated[tuple[int, ...], BeforeValidator(_layer_list)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


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
    limit: Annotated[int, Field(gt=0)] | None = None
    """Train on this many rows at most, drawn by seed with each class's share kept."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens kept of an article, special tokens included."""
    min_tokens: Annotated[int, Field(ge=0)] = 5
    """Training rows with fewer tokens are dropped (special tokens included)."""
    max_tokens: Annotated[int, Field(gt=0)] = 512
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
    head: Literal["full", "lora", "linear"] = "full"
    """`full`: the stock head is trained; `lora`: LoRA on its dense layer, output layer trained; `linear`: output only."""
    dropout: Share | None = 0.0
    """Dropout in the frozen backbone and the head; `null` keeps the backbone's own."""


class LoraConfig(_Section):
    """The low-rank update of the backbone's linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    targets: Names = ("query", "value")
    """Of query, key, value, attention-output, intermediate, output; or `attention`, `all-linear`."""
    r: Annotated[int, Field(gt=0)] = 8
    """Rank of the update."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scaling numerator; see `lora.scaling`."""
    scaling: Literal["alpha/r", "rslora", "alpha"] = "alpha/r"
    """Factor on the update: alpha/r (Hu et al., peft), alpha/sqrt(r) (rsLoRA), or the paper's literal alpha."""
    dropout: Share = 0.0
    """Dropout on the input of the low-rank branch."""
    layers: Layers | None = None
    """Layers that get LoRA, such as `3-5`, counted from 0; all when not given."""
    budget: Annotated[int, Field(gt=0)] = 1_000_000
    """Most trainable parameters allowed, head included."""


class TrainConfig(_Section):
    """The optimisation."""

    epochs: Annotated[int, Field(gt=0)] = 3
    """Passes over the training rows."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate of AdamW."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    """Articles a step (of each process, before accumulation)."""
    batch_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens a step at most: batches of short articles grow, of long ones shrink; replaces `train.batch_size`."""
    accumulation: Annotated[int, Field(gt=0)] = 1
    """Batches whose gradients are averaged before a step."""
    schedule: Literal["cosine", "linear", "constant", "cosine-restarts"] = "cosine"
    """Decay of the learning rate; `cosine-restarts` is SGDR (Loshchilov & Hutter 2017)."""
    warmup: Share = 0.06
    """Share of the steps over which the learning rate rises linearly from 0."""
    restarts: Annotated[int, Field(gt=0)] = 3
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
    patience: Annotated[int, Field(gt=0)] | None = None
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
        except ValueError as error:
            raise NewsloraError(f"{where}: {error}") from error

    def to_yaml(self) -> str:
        """Return the whole tree as YAML that :func:`load_config` reads back equal."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

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
        raise NewsloraError(f"--{name}: unknown setting; {_nearest(name, setting_names())}")


def section_type(section: str) -> type[BaseModel]:
    """Return the type of a section of :class:`RunConfig` by name."""
    annotation = RunConfig.model_fields[section].annotation
    assert annotation is not None and issubclass(annotation, BaseModel)  # noqa: S101 - narrows the type for mypy
    return annotation


def preset_names() -> list[str]:
    """Return the names of the packaged presets."""
    return sorted(file.name.removesuffix(".yaml") for file in (resources.files("newslora") / "presets").iterdir())


def load_config(path: Path | None = None, preset: str | None = None, overrides: Mapping[str, str] | None = None) -> RunConfig:
    """Resolve the settings: defaults, then a preset, then a YAML file, then single overrides.

    Args:
        path: A YAML file such as a run folder's ``config.yaml``.
        preset: Name of a packaged preset.
        overrides: Dotted names with their values as text: ``{"lora.r": "16"}``.

    Raises:
        NewsloraError: A file that cannot be read, an unknown preset or key, or a value out of its range.
    """
    tree: dict[str, Any] = {}
    if preset is not None:
        _merge(tree, _read_preset(preset))
    if path is not None:
        _merge(tree, _read_yaml(path))
    for name, text in (overrides or {}).items():
        check_setting(name)
        section, _, key = name.partition(".")
        tree.setdefault(section, {})[key] = _parse(text)
    return RunConfig.from_dict(tree, where=str(path or preset or "settings"))


def _parse(text: str) -> object:
    # Only null needs reading: pydantic turns text into numbers, and yes/no/true/false into booleans.
    return None if text in {"null", "none", "None"} else text


def _read_preset(name: str) -> dict[str, Any]:
    if name not in preset_names():
        raise NewsloraError(f"--preset {name}: unknown preset; there are {', '.join(preset_names())}")
    text = (resources.files("newslora") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NewsloraError(f"{path}: cannot be read ({error.strerror}); give a YAML file of settings") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise NewsloraError(f"{path}{line}: not readable as YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(values, dict):
        raise NewsloraError(f"{path}: holds no settings; expected sections {', '.join(RunConfig.model_fields)}")
    return values


def _merge(tree: dict[str, Any], values: Mapping[str, Any]) -> None:
    for section, content in values.items():
        if isinstance(content, Mapping) and isinstance(tree.get(section), dict):
            tree[section].update(content)
        else:
            tree[section] = dict(content) if isinstance(content, Mapping) else content


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = setting_names() if "." in name else list(RunConfig.model_fields)
        return f"{name}: unknown setting; {_nearest(name, known)}"
    return f"{name}: {problem['msg']} (got {problem['input']!r})"
