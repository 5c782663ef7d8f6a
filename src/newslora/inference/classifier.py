"""A trained classifier in Python: a run folder or an export in, labels and probabilities out."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from newslora.data.cleaning import Cleaner
from newslora.data.encoding import encode
from newslora.errors import NewsloraError
from newslora.model.about import read_about
from newslora.model.seal import FILE_NAME as SEAL
from newslora.model.seal import check_seal
from newslora.model.temperature import load_temperature, probabilities
from newslora.model.thresholds import label_probabilities, load_thresholds
from newslora.model.weights import sha256

if TYPE_CHECKING:
    from newslora.inference.onnx_model import OnnxModel
    from newslora.model.classifier import NewsModel

_FORMS: Final = {"adapter_config.json": "adapter", "model.onnx": "onnx", "model.safetensors": "merged"}
"""The file by which each form of a classifier is told."""


class NewsClassifier:
    """Classifies articles with a trained run, or with any export of it.

    The weights are read at the first prediction (or when :attr:`model` is asked for). One instance may be used from
    several threads: passes through the model run one after the other, each on all cores.
    """

    def __init__(self, adapter: Path, cleaner: Cleaner, temperature: float, engine: str = "packed") -> None:
        self.adapter = adapter
        self.form = _form_of(adapter)
        self.cleaner = cleaner
        self.temperature = temperature
        self._engine = engine
        about = read_about(adapter)
        self._names = about.names
        self.thresholds = load_thresholds(adapter, about)  # None where an article carries one label
        self._loaded: NewsModel | OnnxModel | None = None
        self._loading, self._passing = Lock(), Lock()

    @classmethod
    def load(cls, path: str | Path, engine: str = "packed") -> Self:
        """Open a trained classifier.

        Args:
            path: A run folder, its ``adapter`` folder alone, or what ``newslora export`` made of it.
            engine: ``packed`` runs articles back to back without padding; ``padded`` is the stock pass. A graph has
                its own.

        Raises:
            NewsloraError: There is no trained classifier, or a file of it is damaged.
        """
        adapter = _adapter_folder(Path(path))
        check_seal(adapter)
        return cls(adapter, Cleaner.load(adapter / "cleaner.json"), load_temperature(adapter), engine)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process reads the folder again, with its checks; weights and locks do not travel.
        return type(self).load, (self.adapter, self._engine)

    @property
    def model(self) -> "NewsModel":
        """The model of an adapter or a merged export, read when first asked for.

        Raises:
            NewsloraError: The classifier is a graph for ONNX Runtime.
        """
        loaded = self._load()
        if self.form == "onnx":
            raise NewsloraError(f"{self.adapter}: is an ONNX graph; give the run that it was exported from")
        return loaded  # type: ignore[return-value]  # the form tells which it is

    @property
    def fingerprint(self) -> str:
        """What tells this classifier's answers from another's: the digest of its files' checksums."""
        return sha256(self.adapter / SEAL)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, in the order of :meth:`predict_proba`'s columns."""
        return self._names

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Classify articles.

        Args:
            texts: Articles, as a list; a single string is refused, for it would be read letter by letter.

        Returns:
            For each article, in order, its ``label``, the ``score`` (the label's calibrated probability) and all
            ``scores`` by label; where articles carry several labels, the ``labels`` whose probability reaches their
            threshold, and all ``scores``, each label's own probability. No article, no result.

        Raises:
            NewsloraError: An item is not a string, or has no text (``texts[3]``, counted from 0).
        """
        rows = self.predict_proba(texts)
        if self.thresholds is not None:
            return [
                {
                    "labels": [name for name, has in zip(self.names, carried, strict=True) if has],
                    "scores": dict(zip(self.names, row.tolist(), strict=True)),
                }
                for row, carried in zip(rows, self.thresholds.carried(rows), strict=True)
            ]
        return [
            {
                "label": self.names[int(row.argmax())],
                "score": float(row.max()),
                "scores": dict(zip(self.names, row.tolist(), strict=True)),
            }
            for row in rows
        ]

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return calibrated class probabilities; where articles carry several labels, each label's own.

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
        logits = self.logits(texts)
        return probabilities(logits, self.temperature) if self.thresholds is None else label_probabilities(logits)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits, float32 ``[articles, labels]``, of texts that :meth:`repair` returned."""
        if not texts:
            return np.empty((0, len(self.names)), dtype=np.float32)
        model: Any = self._load()
        # Tokenizers keep their truncation as state, and two passes at once would only share the same cores.
        with self._passing:
            encoded = encode(texts, model.tokenizer, model.max_length, cache=False)
            if self.form == "onnx":
                return model.logits(encoded)  # type: ignore[no-any-return]
            from newslora.model.classifier import predict_logits

            return predict_logits(model, encoded)

    def _load(self) -> "NewsModel | OnnxModel":
        with self._loading:
            if self._loaded is None:
                self._loaded = _read_model(self.adapter, self.form, self._engine)
            return self._loaded

    def _repair_item(self, index: int, text: object) -> str:
        try:
            return self.repair(text)
        except NewsloraError as error:
            raise NewsloraError(f"texts[{index}]: {error}") from error


def _adapter_folder(path: Path) -> Path:
    for folder in (path, path / "adapter"):
        if _form_of(folder):
            return folder
    reason = "holds no trained adapter (adapter_config.json) and no export" if path.is_dir() else "no such folder"
    raise NewsloraError(f"{path}: {reason}; give a run folder that `newslora train` has finished")


def _form_of(folder: Path) -> str:
    return next((form for file, form in _FORMS.items() if (folder / file).is_file()), "")


def _read_model(folder: Path, form: str, engine: str) -> "NewsModel | OnnxModel":
    if form == "onnx":  # the one form that does without PyTorch, which is not imported then
        from newslora.inference.onnx_model import OnnxModel

        return OnnxModel(folder)
    import torch

    from newslora.model.classifier import load_model
    from newslora.model.merged import load_merged

    model = load_model(folder, engine) if form == "adapter" else load_merged(folder, engine)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
