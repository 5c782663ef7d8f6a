"""A trained classifier in Python: a run folder in, labels and probabilities out."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np

from newslora.data.cleaning import Cleaner
from newslora.data.encoding import encode
from newslora.errors import NewsloraError
from newslora.model.classifier import NewsModel, load_model, predict_logits
from newslora.model.temperature import load_temperature, probabilities


class NewsClassifier:
    """Classifies articles with a trained run.

    The weights are read at the first prediction (or when :attr:`model` is asked for). One instance may be used from
    several threads: passes through the model run one after the other, each on all cores.
    """

    def __init__(self, adapter: Path, cleaner: Cleaner, temperature: float, engine: str = "packed") -> None:
        self.adapter = adapter
        self.cleaner = cleaner
        self.temperature = temperature
        self._engine = engine
        self._model: NewsModel | None = None
        self._loading, self._passing = Lock(), Lock()

    @classmethod
    def load(cls, path: str | Path, engine: str = "packed") -> Self:
        """Open a trained classifier.

        Args:
            path: A run folder, or its ``adapter`` folder alone.
            engine: ``packed`` runs articles back to back without padding; ``padded`` is the stock pass.

        Raises:
            NewsloraError: There is no trained adapter, or a file of it is damaged.
        """
        adapter = _adapter_folder(Path(path))
        return cls(adapter, Cleaner.load(adapter / "cleaner.json"), load_temperature(adapter), engine)

    @property
    def model(self) -> NewsModel:
        """The model, read when first asked for."""
        with self._loading:
            if self._model is None:
                self._model = load_model(self.adapter, self._engine)
            return self._model

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, in the order of :meth:`predict_proba`'s columns."""
        return self.model.names

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Classify articles.

        Args:
            texts: Articles, as a list; a single string is refused, for it would be read letter by letter.

        Returns:
            For each article, in order, its ``label``, the ``score`` (the label's calibrated probability) and all
            ``scores`` by label. No article, no result.

        Raises:
            NewsloraError: An item is not a string, or has no text (``texts[3]``, counted from 0).
        """
        rows = self.predict_proba(texts)
        return [
            {
                "label": self.names[int(row.argmax())],
                "score": float(row.max()),
                "scores": dict(zip(self.names, row.tolist(), strict=True)),
            }
            for row in rows
        ]

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return calibrated class probabilities.

        Args:
            texts: Articles, as a list.

        Returns:
            float64 ``[articles, labels]``, columns in the order of :attr:`names`.

        Raises:
            NewsloraError: An item is not a string, or has no text.
        """
        if isinstance(texts, str):
            raise NewsloraError("texts: one string was given; give a list of articles, such as [text]")
        return self.predict_repaired([self._repair_item(index, text) for index, text in enumerate(texts)])

    def repair(self, text: object) -> str:
        """Return an article as the model reads it, repaired as its training rows were.

        Raises:
            NewsloraError: It is not a string, or nothing but blanks and markup.
        """
        if not isinstance(text, str):
            raise NewsloraError(f"not a text but {type(text).__name__}; give the article as a string")
        repaired = self.cleaner.repair(text)
        if not repaired:
            raise NewsloraError("no text (empty, or only blanks and markup); give the article's words")
        return repaired

    def predict_repaired(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probabilities, float64 ``[articles, labels]``, of texts that :meth:`repair` returned."""
        if not texts:
            return np.empty((0, len(self.names)))
        model = self.model
        # Tokenizers keep their truncation as state, and two passes at once would only share the same cores.
        with self._passing:
            encoded = encode(texts, model.tokenizer, model.max_length, cache=False)
            logits = predict_logits(model, encoded)
        return probabilities(logits, self.temperature)

    def _repair_item(self, index: int, text: object) -> str:
        try:
            return self.repair(text)
        except NewsloraError as error:
            raise NewsloraError(f"texts[{index}]: {error}") from error


def _adapter_folder(path: Path) -> Path:
    for folder in (path, path / "adapter"):
        if (folder / "adapter_config.json").is_file():
            return folder
    reason = "holds no trained adapter (adapter_config.json)" if path.is_dir() else "no such folder"
    raise NewsloraError(f"{path}: {reason}; give a run folder that `newslora train` has finished")
