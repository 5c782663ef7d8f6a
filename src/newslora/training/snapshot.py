"""Between live training objects and a checkpoint's files: safetensors for tensors, JSON for the rest."""

from dataclasses import dataclass

import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from newslora.errors import NewsloraError
from newslora.training.state import Document

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Live:
    """The objects that hold training's tensors."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: GradScaler | None


def pack(live: Live, document: Document, best: Tensors) -> dict[str, bytes]:
    """Return a checkpoint's files by name.

    Args:
        live: Objects to read tensors from.
        document: Everything else.
        best: Trainable tensors of the best epoch so far; empty before the first epoch's end.
    """
    return {
        "state.json": document.model_dump_json().encode(),
        "trainable.safetensors": save(trainable_tensors(live.model)),
        "optimizer.safetensors": save(_moments(live.optimizer)),
        "best.safetensors": save(best),
    }


def read_document(files: dict[str, bytes]) -> Document:
    """Return what ``state.json`` of a checkpoint holds.

    Raises:
        NewsloraError: It was written by a version of newslora that kept other state.
    """
    try:
        return Document.model_validate_json(files["state.json"])
    except (KeyError, ValidationError) as error:
        raise NewsloraError("state.json of the checkpoint does not fit this version of newslora; train anew") from error


def unpack(files: dict[str, bytes], live: Live, document: Document) -> Tensors:
    """Put a checkpoint's tensors back into the live objects and return those of the best epoch.

    Raises:
        NewsloraError: The tensors do not fit the model.
    """
    load_trainable(live.model, load(files["trainable.safetensors"]))
    _load_moments(live.optimizer, load(files["optimizer.safetensors"]))
    if live.scaler is not None and document.scaler is not None:
        live.scaler.load_state_dict(document.scaler)
    return load(files["best.safetensors"])


def trainable_tensors(model: nn.Module) -> Tensors:
    """Return a copy on the CPU of every trainable parameter, by name."""
    return {
        name: parameter.detach().to("cpu", copy=True).contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def load_trainable(model: nn.Module, tensors: Tensors) -> None:
    """Set every trainable parameter.

    Raises:
        NewsloraError: Names or shapes differ from the model's.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    ours, theirs = ({name: tuple(t.shape) for name, t in group.items()} for group in (parameters, tensors))
    if ours != theirs:
        odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise NewsloraError(
            f"the checkpoint does not fit the model: {odd[0]} differs; train anew with another --output"
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def _moments(optimizer: torch.optim.Optimizer) -> Tensors:
    # By parameter: bitsandbytes' state_dict() hides its tensors one level down, and counts steps by Python's integers.
    # Its code books are one tensor for all parameters, which safetensors takes as a copy each.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{index}.{key}": value.clone() if isinstance(value, Tensor) else torch.tensor(value)
        for index, parameter in enumerate(parameters)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _load_moments(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, dict[str, Tensor | int | float]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        counts = tensor.ndim == 0 and not tensor.is_floating_point()
        state.setdefault(int(index), {})[key] = tensor.item() if counts else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
