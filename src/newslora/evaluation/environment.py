"""What a run was made with: versions and the kind of machine, nothing that names the machine or its user."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch

from newslora.files import write_text
from newslora.training.run_folder import RunFolder

FILE_NAME: Final = "environment.json"
_PACKAGES: Final = ("torch", "transformers", "peft", "accelerate", "tokenizers", "numpy", "scikit-learn")
_PROCESSORS: Final = Path("/proc/cpuinfo")


def describe_environment() -> dict[str, str]:
    """Return the date, the versions of what computes, and the kind of machine, by name."""
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "newslora": version("newslora"),
        "Python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": f"{os.cpu_count()} ({torch.get_num_threads()} used by torch)",
    }
    return about | ({"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def save_environment(run: RunFolder) -> None:
    """Write ``environment.json``, for whoever reads the run later on another machine."""
    write_text(run.path / FILE_NAME, json.dumps(describe_environment(), indent=2) + "\n")


def _processor() -> str:
    """Return the processor's name; Linux tells it in a file, the other systems through ``platform``."""
    try:
        lines = _PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
