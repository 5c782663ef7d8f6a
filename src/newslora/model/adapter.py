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
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from newslora.config import LoraConfig
from newslora.errors import NewsloraError
from newslora.files import read_bytes
from newslora.model.adapter_config import read_adapter_config
from newslora.model.families import Family
from newslora.model.loftq import check_loftq, start_from_rest
from newslora.model.quantized import check_start
from newslora.model.ranks import module_ranks, scale_of
from newslora.model.residual import RESIDUAL, keep_start, plain_config, plain_state

_WEIGHTS = "adapter_model.safetensors"
_STEM = "base_model.model."
_MOST = 1 << 30  # bytes
_ADVICE = "use the run it came from"
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


def attach(
    model: PreTrainedModel, family: Family, lora: LoraConfig, head: Head, fresh: frozenset[str] = frozenset()
) -> peft.PeftModel:
    """Freeze the backbone, add LoRA to its linear layers and make the head trainable.

    Args:
        model: Classification model, on any device (meta too).
        family: The model's family.
        lora: Targets, ranks, scaling, dropout, layers, start and variant.
        head: ``full``, ``lora`` or ``linear``.
        fresh: Parameters that the checkpoint did not hold; what of the head is among them is saved with the adapter.

    Raises:
        NewsloraError: A target or a layer that does not exist, or a start that a quantised backbone cannot have.
    """
    check_start(model, lora)
    check_loftq(model, lora)
    with quiet():
        tuned = peft.get_peft_model(model, _configure(model, family, lora, _saved_modules(family, head, fresh)))
    if lora.init in RESIDUAL:
        keep_start(tuned)
    if lora.init == "loftq":
        start_from_rest(tuned)
    _train_head(tuned, family, lora, head)
    return tuned


def _configure(model: PreTrainedModel, family: Family, lora: LoraConfig, saved: list[str]) -> peft.LoraConfig:
    ranks = module_ranks(model, family, lora)
    # peft multiplies by lora_alpha / r (or / sqrt(r)): the paper's literal alpha is lora_alpha = alpha · r.
    rslora = lora.scaling == "rslora" and not (lora.ranks or lora.alphas) and lora.init not in RESIDUAL
    alpha = lora.alpha if rslora else lora.r * scale_of(lora.scaling, lora.r, lora.alpha)
    start: Any = lora.init if lora.init in (*RESIDUAL, "eva") else True  # peft's own LoftQ wants CUDA
    special = {re.escape(name): rank for name, rank in ranks.items() if (rank.r, rank.alpha) != (lora.r, lora.alpha)}
    config = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS,
        r=lora.r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes any number
        rank_pattern={name: rank.r for name, rank in special.items()},
        alpha_pattern={name: rank.r * rank.scale for name, rank in special.items()},
        use_rslora=rslora,
        use_dora=lora.dora,
        lora_dropout=lora.dropout,
        init_lora_weights=start,
        # Ranks are shared out by lora.allocation, not by EVA.
        eva_config=peft.EvaConfig(rho=1.0) if lora.init == "eva" else None,
        # Anchored full names: a bare suffix such as "dense" would also match the head.
        target_modules="|".join(re.escape(name) for name in ranks),
        modules_to_save=saved,
    )
    return config


def head_linear(model: peft.PeftModel, path: str) -> nn.Linear:
    """Return a linear module of the head by its path in the plain model, through peft's wrappers."""
    module: Any = model.base_model.model
    for part in path.split("."):
        module = getattr(module, part)
        module = module.modules_to_save["default"] if hasattr(module, "modules_to_save") else module
    linear: nn.Linear = module
    return linear


def adapter_state(model: peft.PeftModel) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors under peft's names; a parametrized weight, as the head's, as what it comes to."""
    state = plain_state(model, get_peft_model_state_dict(model))
    folded = {key: tensor for key, tensor in state.items() if ".parametrizations." not in key}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            stem = name.replace(".modules_to_save.default", "").removesuffix(".default")
            weight: Any = module.weight
            folded[f"{stem}.weight"] = weight
    return {key: tensor.detach().cpu().contiguous() for key, tensor in folded.items()}


def save_adapter(model: peft.PeftModel, folder: Path, base: str, revision: str | None) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` in peft's format.

    Args:
        model: The tuned model.
        folder: An existing folder.
        base: What plain peft shall load as the backbone: hub id or path.
        revision: Revision of a hub backbone.
    """
    config = plain_config(model)
    config.base_model_name_or_path, config.revision, config.inference_mode = base, revision, True
    config.save_pretrained(str(folder))
    (folder / _WEIGHTS).write_bytes(save(adapter_state(model), metadata={"format": "pt"}))


def load_adapter(model: PreTrainedModel, folder: Path, family: Family) -> peft.PeftModel:
    """Put a saved adapter on its backbone, frozen and in evaluation mode.

    peft's own loader would take a pickle, or ask the hub, where the safetensors file is missing, only warn of tensors
    that the file lacks, and pass over those too many; so the file is read and compared here.

    Raises:
        NewsloraError: The files are damaged or do not fit the backbone.
    """
    config = read_adapter_config(folder, model, family)
    tensors = _read_tensors(folder / _WEIGHTS)
    _check_ranks(folder / _WEIGHTS, tensors, config)
    with quiet():
        tuned = peft.get_peft_model(model, config)
    _check_tensors(folder / _WEIGHTS, tensors, get_peft_model_state_dict(tuned))
    set_peft_model_state_dict(tuned, tensors)
    return tuned.requires_grad_(False).eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep peft's use of names that transformers deprecates, and its advice on memory, from warning our users."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")
        warnings.filterwarnings("ignore", category=UserWarning, message=".*low_cpu_mem_usage.*")
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
        update = LowRankUpdate(dense.weight, lora.r, scale_of(lora.scaling, lora.r, lora.alpha))
        parametrize.register_parametrization(dense, "weight", update, unsafe=True)


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load(read_bytes(file, _MOST, _ADVICE))
    except (SafetensorError, ValueError, KeyError) as error:
        raise NewsloraError(f"{file}: is not readable as safetensors ({error}); {_ADVICE}") from error


def _check_ranks(file: Path, tensors: dict[str, torch.Tensor], config: peft.LoraConfig) -> None:
    # Before the matrices are made: a rank of a thousand million would ask for all memory.
    end = ".lora_A.weight"
    stems = {
        name.removeprefix(_STEM).removesuffix(end): t for name, t in tensors.items() if name.endswith(end) and t.ndim
    }
    found = {re.escape(stem): tensor.shape[0] for stem, tensor in stems.items()}
    patterns = config.rank_pattern or {}
    wanted = {name: patterns.get(name, config.r) for name in str(config.target_modules).split("|")}
    if found != wanted:
        ours, theirs = (sorted(set(ranks.values()))[:4] for ranks in (wanted, found))
        raise NewsloraError(f"{file}: holds ranks {theirs} where the configuration has {ours}; {_ADVICE}")


def _check_tensors(file: Path, tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    ours, theirs = ({name: (t.shape, t.dtype) for name, t in group.items()} for group in (expected, tensors))
    if ours != theirs:
        odd = min(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        found = f"is {list(tensors[odd].shape)} of {tensors[odd].dtype}" if odd in tensors else "is missing"
        wanted = f"{list(expected[odd].shape)} of {expected[odd].dtype}" if odd in expected else "no such tensor"
        raise NewsloraError(f"{file}: does not fit its backbone and labels, {odd} {found}, not {wanted}; {_ADVICE}")
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise NewsloraError(f"{file}: {name} holds numbers that are not finite; {_ADVICE}")
