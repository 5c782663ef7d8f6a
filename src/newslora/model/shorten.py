"""Backbones of which only some layers are kept (Sanh et al. 2019, arXiv 1910.01108, section 3, start students so)."""

import hashlib

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from newslora.config import ModelConfig
from newslora.data.cache import cache_folder
from newslora.errors import NewsloraError
from newslora.files import writing
from newslora.model.backbone import labelled
from newslora.model.families import Family
from newslora.model.quantized import QuantizedLinear
from newslora.model.weights import WEIGHTS

Layers = tuple[int, ...]


def even_layers(count: int, keep: int) -> Layers:
    """Return ``keep`` of ``count`` layers, evenly spaced, the first and the last among them.

    Raises:
        NewsloraError: There are not so many.
    """
    if not 1 <= keep <= count:
        raise NewsloraError(f"--layers: {keep} of a backbone with {count} layers; give 1 to {count}")
    if keep == 1:
        return (count - 1,)
    return tuple(int(layer) for layer in np.round(np.linspace(0, count - 1, keep)))


def shorten_config(config: PreTrainedConfig, layers: Layers | None) -> PreTrainedConfig:
    """Make a configuration that of the layers kept, in place.

    Raises:
        NewsloraError: A layer that the backbone lacks, none, or one twice.
    """
    if layers is None:
        return config
    count = int(config.num_hidden_layers)
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= count:
        raise NewsloraError(
            f"model.layers: {list(layers)} are not layers of this backbone in their order; it has 0 to {count - 1}"
        )
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and layers[0] != 0:
        raise NewsloraError(f"model.layers: {config.model_type}'s layer 0 is unlike the others; keep it")
    config.num_hidden_layers = len(layers)
    if kinds is not None:  # which of ModernBERT's layers look far
        config.layer_types = [kinds[layer] for layer in layers]
    return config


def shorten(model: PreTrainedModel, family: Family, layers: Layers | None) -> None:
    """Drop all but the given layers of a classification model, in place.

    Raises:
        NewsloraError: As :func:`shorten_config`.
    """
    if layers is None:
        return
    shorten_config(model.config, layers)
    parent, _, name = family.layers.rpartition(".")
    kept = list(model.get_submodule(family.layers).children())
    setattr(model.get_submodule(parent), name, nn.ModuleList(kept[layer] for layer in layers))


def backbone_for_peft(model: PreTrainedModel, identity: dict[str, str | None]) -> str:
    """Return what plain peft shall load as an adapter's backbone.

    Args:
        model: The classification model, LoRA layers in place.
        identity: The backbone's.
    """
    name, digest = str(identity["backbone"]), identity["weights_sha256"]
    made = [change for key in ("layers", "quantization") if (change := identity.get(key)) is not None]
    if not made:
        return labelled(name, model.config, digest)
    return _changed_folder(model, " ".join([str(digest), *made])) or name


def _changed_folder(model: PreTrainedModel, about: str) -> str | None:
    # Plain peft would take the first layers of the whole backbone, and all weights in full precision; so it is given
    # a backbone that has these layers alone, and the weights that quantised ones stand for.
    text = model.config.to_json_string()
    folder = cache_folder() / "backbones" / hashlib.sha256(f"{about} {text}".encode()).hexdigest()[:32]
    try:
        with writing(folder) as staged:
            staged.mkdir()
            (staged / "config.json").write_text(text, encoding="utf-8")
            (staged / WEIGHTS).write_bytes(save(_frozen_state(model), metadata={"format": "pt"}))
    except NewsloraError:
        return None
    return str(folder.resolve())


def _frozen_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights that were there before peft, under their names then."""
    state = {}
    for key, tensor in model.state_dict().items():
        if ".lora_" not in key and ".modules_to_save." not in key:
            name = key.replace(".original_module.", ".").replace(".base_layer.", ".")
            state[name] = tensor.detach().cpu().contiguous()
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            state[f"{name.removesuffix('.base_layer')}.weight"] = module.weight.cpu()
        if hasattr(module, "start_A"):
            part = module.scaling["default"] * (module.start_B @ module.start_A)
            state[f"{name}.weight"] = state[f"{name}.weight"] + part.cpu()
    return state


def changes(settings: ModelConfig) -> dict[str, str]:
    """Return what is done to a backbone, as ``newslora.json`` says it beside which one it is."""
    made = {} if settings.layers is None else {"layers": ",".join(map(str, settings.layers))}
    return made if settings.quantization == "none" else made | {"quantization": settings.quantization}
