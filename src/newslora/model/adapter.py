"""LoRA and the head on a backbone, through peft, and their files in peft's format."""

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from newslora.config import LoraConfig
from newslora.errors import NewsloraError
from newslora.model.families import Family, linear_modules

Head = str  # "full", "lora" or "linear", validated by the settings


class LowRankUpdate(nn.Module):
    """W ↦ W + scale · B A, the low-rank update of a head's hidden layer (Hu et al. 2021, section 4.1).

    peft saves a classification head whole and puts no LoRA inside it, so the head's update is a parametrization.
    """

    def __init__(self, weight: torch.Tensor, r: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.A = nn.Parameter(torch.empty(r, weight.shape[1], device=weight.device))
        self.B = nn.Parameter(torch.zeros(weight.shape[0], r, device=weight.device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the updated weight, of the shape of ``weight`` [out, in]."""
        return weight + self.scale * (self.B @ self.A)


def scale_of(lora: LoraConfig) -> float:
    """Return the factor on the low-rank update that the settings ask for."""
    by_name = {"alpha/r": lora.alpha / lora.r, "rslora": lora.alpha / math.sqrt(lora.r), "alpha": lora.alpha}
    return by_name[lora.scaling]


def attach(
    model: PreTrainedModel, family: Family, lora: LoraConfig, head: Head, fresh: frozenset[str] = frozenset()
) -> peft.PeftModel:
    """Freeze the backbone, add LoRA to its linear layers and make the head trainable.

    Args:
        model: Classification model, on any device (meta too).
        family: The model's family.
        lora: Targets, rank, scaling, dropout and layers.
        head: ``full``, ``lora`` or ``linear``.
        fresh: Parameters that the checkpoint did not hold; what of the head is among them is saved with the adapter.

    Raises:
        NewsloraError: A target or a layer that does not exist.
    """
    modules = linear_modules(model, family, lora.targets, lora.layers)
    config = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS,
        r=lora.r,
        # peft multiplies by lora_alpha / r (or / sqrt(r)): the paper's literal alpha is lora_alpha = alpha · r.
        lora_alpha=lora.alpha * lora.r if lora.scaling == "alpha" else lora.alpha,  # type: ignore[arg-type]  # no int
        use_rslora=lora.scaling == "rslora",
        lora_dropout=lora.dropout,
        # Anchored full names: a bare suffix such as "dense" would also match the head.
        target_modules="|".join(re.escape(name) for name in modules),
        modules_to_save=_saved_modules(family, head, fresh),
    )
    with quiet():
        tuned = peft.get_peft_model(model, config)
    _train_head(tuned, family, lora, head)
    return tuned


def head_linear(model: peft.PeftModel, path: str) -> nn.Linear:
    """Return a linear module of the head by its path in the plain model, through peft's wrappers."""
    module: Any = model.base_model.model
    for part in path.split("."):
        module = getattr(module, part)
        module = module.modules_to_save["default"] if hasattr(module, "modules_to_save") else module
    linear: nn.Linear = module
    return linear


def adapter_state(model: peft.PeftModel) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors under peft's names, the head's low-rank update folded into its weight."""
    state = get_peft_model_state_dict(model)
    folded = {}
    for key, tensor in state.items():
        stem, marker, rest = key.partition(".parametrizations.weight.")
        if not marker:
            folded[key] = tensor
        elif rest == "original":
            a, b = state[f"{stem}{marker}0.A"], state[f"{stem}{marker}0.B"]
            folded[f"{stem}.weight"] = tensor + _head_scale(model) * (b @ a)
    return {key: tensor.detach().cpu().contiguous() for key, tensor in folded.items()}


def save_adapter(model: peft.PeftModel, folder: Path, base: str, revision: str | None) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` in peft's format.

    Args:
        model: The tuned model.
        folder: An existing folder.
        base: What plain peft shall load as the backbone: hub id or path.
        revision: Revision of a hub backbone.
    """
    config = model.peft_config["default"]
    old = config.base_model_name_or_path, config.revision, config.inference_mode
    config.base_model_name_or_path, config.revision, config.inference_mode = base, revision, True
    config.save_pretrained(str(folder))
    config.base_model_name_or_path, config.revision, config.inference_mode = old
    (folder / "adapter_model.safetensors").write_bytes(save(adapter_state(model), metadata={"format": "pt"}))


def load_adapter(model: PreTrainedModel, folder: Path) -> peft.PeftModel:
    """Put a saved adapter on its backbone, frozen and in evaluation mode.

    Raises:
        NewsloraError: The files are damaged or do not fit the backbone.
    """
    try:
        with quiet():
            # peft only warns of tensors that the file lacks, and leaves noise in their place.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return peft.PeftModel.from_pretrained(model, str(folder)).eval()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, UserWarning, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        message = f"{folder}: the adapter does not fit its backbone ({reason}); use the run it came from"
        raise NewsloraError(message) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep peft's use of names that transformers deprecates from warning our users."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")
        yield


def _saved_modules(family: Family, head: Head, fresh: frozenset[str]) -> list[str]:
    # The head's hidden part is saved when it is trained, and when only this run knows what it was initialised to.
    output, *hidden = family.head_modules
    return [output, *(name for name in hidden if head != "linear" or any(name in key.split(".") for key in fresh))]


def _train_head(model: peft.PeftModel, family: Family, lora: LoraConfig, head: Head) -> None:
    for key, parameter in model.named_parameters():
        if ".modules_to_save.default." in key:
            parameter.requires_grad_(head == "full")
    head_linear(model, family.head_output).requires_grad_(True)
    if head == "lora":
        dense = head_linear(model, family.head_dense)
        update = LowRankUpdate(dense.weight, lora.r, scale_of(lora))
        parametrize.register_parametrization(dense, "weight", update, unsafe=True)


def _head_scale(model: nn.Module) -> float:
    return next(module.scale for module in model.modules() if isinstance(module, LowRankUpdate))
