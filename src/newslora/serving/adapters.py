"""Adapters of run folders over one backbone: loading, running mixed batches, explaining."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from newslora.data.cleaning import Cleaner
from newslora.data.encoding import encode
from newslora.inference.classifier import NewsClassifier
from newslora.model.shared import Adapter, SharedBackbone
from newslora.model.temperature import load_temperature, probabilities
from newslora.serving.engine import Explanation, Served
from newslora.serving.explain import explain


@dataclass(frozen=True)
class _Part:
    adapter: Adapter
    temperature: float


class BackboneRunner:
    """Runs every adapter on one backbone, any number of them in a batch.

    Args:
        folder: The adapter folder whose backbone it shall be.

    Raises:
        NewsloraError: The adapter or its backbone cannot be loaded.
    """

    def __init__(self, folder: Path) -> None:
        self._backbone = SharedBackbone(folder)

    def load(self, folder: Path, name: str, *, removable: bool, stamp: int) -> Served:
        """Load an adapter folder under a name.

        Raises:
            NewsloraError: It cannot be loaded, or is of another backbone.
        """
        adapter = self._backbone.load(folder)
        repair = NewsClassifier(folder, Cleaner.load(folder / "cleaner.json"), 1.0).repair
        part, model = _Part(adapter, load_temperature(folder)), adapter.model
        explains = model.encoder is not None
        return Served(
            name=name,
            labels=model.names,
            max_length=model.max_length,
            removable=removable,
            stamp=stamp,
            repair=repair,
            runner=self,
            part=part,
            explain=partial(self._explain, part) if explains else None,
        )

    def run(self, groups: Sequence[tuple[Served, Sequence[str]]]) -> list[np.ndarray]:
        """Return, for each group of repaired texts, probabilities, float64 [texts, labels]."""
        parts: list[_Part] = [served.part for served, _ in groups]
        models = [part.adapter.model for part in parts]
        texts = [texts for _, texts in groups]
        encoded = [encode(t, m.tokenizer, m.max_length, cache=False) for t, m in zip(texts, models, strict=True)]
        logits = self._backbone.logits([(part.adapter, e) for part, e in zip(parts, encoded, strict=True)])
        return [probabilities(rows, part.temperature) for rows, part in zip(logits, parts, strict=True)]

    def _explain(self, part: _Part, text: str, label: int | None) -> Explanation:
        forward = partial(self._backbone.from_embeddings, part.adapter)
        return explain(part.adapter.model, forward, part.temperature, text, label)
