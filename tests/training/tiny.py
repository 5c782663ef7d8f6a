"""A tiny model, table and run for the training tests; also started as a script for tests that need processes.

The model has what training asks of a NewsModel: frozen parameters, matrices, a normalisation, biases and dropout.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from newslora.config import RunConfig
from newslora.data.batches import Batch
from newslora.data.cleaning import Cleaner
from newslora.data.encoding import Encoded
from newslora.data.prepare import Prepared, Split
from newslora.training.loop import FitResult, fit
from newslora.training.progress import Event
from newslora.training.run_folder import RunFolder
from newslora.training.snapshot import trainable_tensors

NAMES = ("Business", "Sports", "World")
TIMES = ("seconds", "samples_per_second")


class TinyModel(nn.Module):
    """A mean of frozen embeddings, then a small trained network."""

    encoder = None
    first_layer = 0

    def __init__(self, seed: int = 0, dropout: float = 0.2) -> None:
        super().__init__()
        self.identity: dict[str, str | None] = {"weights_sha256": None}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(30, 8).requires_grad_(False)
            self.hidden = nn.Linear(8, 12)
            self.norm = nn.LayerNorm(12)
            self.dropout = nn.Dropout(dropout)
            self.out = nn.Linear(12, len(NAMES))

    def forward(self, batch: Batch) -> Tensor:
        articles = self.embedding(batch.input_ids).split(list(batch.lengths))
        pooled = torch.stack([tokens.mean(dim=0) for tokens in articles])
        return self.out(self.dropout(self.norm(torch.tanh(self.hidden(pooled)))))

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def save_adapter(self, folder: Path) -> None:
        save_file(trainable_tensors(self), folder / "adapter_model.safetensors")


def make_split(rows: int, seed: int, source: str = "news.csv") -> Split:
    """Articles whose class shifts the distribution of their tokens, so that there is something to learn."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(NAMES), rows)
    articles = [generator.integers(0, 18, generator.integers(3, 12)) + 6 * label for label in labels]
    offsets = np.cumsum([0, *map(len, articles)])
    encoded = Encoded(np.concatenate(articles).astype(np.int32), offsets.astype(np.int64))
    texts = [" ".join(map(str, article)) for article in articles]
    return Split(texts, labels.tolist(), [row + 2 for row in range(rows)], source, encoded)


def make_data(rows: int = 70, seed: int = 1) -> Prepared:
    return Prepared(NAMES, make_split(rows, seed), make_split(25, seed + 1), None, Cleaner(), {})


def make_config(**train: Any) -> RunConfig:
    return RunConfig.from_dict({"train": {"epochs": 3, "batch_size": 8, "lr": 0.02, **train}})


def train(
    path: Path, resume: bool = False, report: Callable[[Event], None] = lambda _: None, rows: int = 70, **settings: Any
) -> FitResult:
    config = make_config(**settings)
    run = RunFolder.open(path) if resume else RunFolder.create(path, config)
    return fit(config, make_data(rows), TinyModel(), run, report, resume=resume)


def outcome(path: Path) -> tuple[bytes, list[dict[str, Any]], str]:
    """What two runs of one seed share: the adapter's bytes, the metrics without times, the learning curve."""
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in RunFolder(path).metrics()]
    return (path / "adapter" / "adapter_model.safetensors").read_bytes(), rows, (path / "steps.jsonl").read_text()


def _main() -> None:
    path, settings, resume = Path(sys.argv[1]), json.loads(sys.argv[2]), "--resume" in sys.argv
    config = make_config(**settings)
    # In a multi-process run the folder is made before the processes start.
    run = RunFolder.open(path) if resume or "RANK" in os.environ else RunFolder.create(path, config)
    fit(config, make_data(), TinyModel(dropout=0.0), run, lambda _: None, resume=resume)


if __name__ == "__main__":
    _main()
