"""Accelerate's entry: device, precision, processes, and the trackers that figures are sent to."""

from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration

from newslora.config import RunConfig, TrainConfig, setting_names
from newslora.errors import NewsloraError
from newslora.training.run_folder import RunFolder

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


def start_accelerator(config: TrainConfig, run: RunFolder) -> Accelerator:
    """Return an Accelerator for this process with the precision and trackers of the settings.

    Raises:
        NewsloraError: An unknown tracker, one whose package is missing, or a precision that the device lacks.
    """
    _check_trackers(config.trackers)
    precision = resolve_precision(config.precision)
    # One process may train several runs in turn, and accelerate remembers the first one's precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=list(config.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(run.path), logging_dir=str(run.path / "trackers")),
    )
    if precision == "fp16" and accelerator.scaler is None:
        raise NewsloraError(f"train.precision: fp16 does not run on {accelerator.device}; choose fp32 or bf16")
    return accelerator


def resolve_precision(wanted: Literal["auto", "fp32", "bf16", "fp16"]) -> Literal["fp32", "bf16", "fp16"]:
    """Return the arithmetic to use: ``auto`` is bf16 on a CUDA device that has it natively, fp32 elsewhere."""
    if wanted != "auto":
        return wanted
    native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "fp32"


def start_trackers(accelerator: Accelerator, config: RunConfig) -> None:
    """Open the run's trackers and hand them the settings."""
    if config.train.trackers:
        accelerator.init_trackers("newslora", config=flat_settings(config))


def stop_trackers(accelerator: Accelerator) -> None:
    """Close the run's trackers; unlike ``Accelerator.end_training``, the process group stays."""
    for tracker in accelerator.trackers:
        tracker.finish()


def flat_settings(config: RunConfig) -> dict[str, str | int | float | bool]:
    """Return the settings under dotted names; lists and nulls as text, which is all that trackers take."""
    tree = config.model_dump(mode="json")
    values = {name: tree[name.partition(".")[0]][name.partition(".")[2]] for name in setting_names()}
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in values.items()}


def _check_trackers(names: tuple[str, ...]) -> None:
    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in TRACKERS:
            raise NewsloraError(f"train.trackers: unknown tracker {name}; known: {', '.join(TRACKERS)}")
        if name not in available:
            raise NewsloraError(
                f"train.trackers: the package {name} is not installed; pip install {name}, or leave it out"
            )
