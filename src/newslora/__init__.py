"""newslora: classify news with a LoRA-tuned encoder, under a million trainable parameters."""

import importlib
from typing import TYPE_CHECKING

from newslora.errors import NewsloraError

if TYPE_CHECKING:
    from newslora.config import RunConfig
    from newslora.inference.classifier import NewsClassifier
    from newslora.workflow import train

__all__ = ["NewsClassifier", "NewsloraError", "RunConfig", "train"]
__version__ = "0.1.0"

_HOME = {
    "NewsClassifier": "newslora.inference.classifier",
    "RunConfig": "newslora.config",
    "train": "newslora.workflow",
}


def __getattr__(name: str) -> object:
    # torch and transformers take seconds to import: nothing heavy is loaded before it is asked for.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'newslora' has no attribute {name!r}")
