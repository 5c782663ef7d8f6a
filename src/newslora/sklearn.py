"""newslora as a scikit-learn estimator: texts and labels in, with cross-validation and grid search around it."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from newslora.config import RunConfig, change
from newslora.files import write_text
from newslora.inference.classifier import NewsClassifier
from newslora.workflow import train


class LoraTextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A LoRA-tuned encoder with scikit-learn's interface.

    Each fit is a run of :func:`newslora.train` on the texts, with its repair, its filters and its own validation rows,
    which choose the epoch.

    Args:
        backbone: Hub id, local folder, or the packaged alias ``minilm``.
        targets: What gets LoRA, as ``lora.targets``.
        r: Rank of the update.
        alpha: Scaling numerator.
        head: ``full``, ``lora`` or ``linear``.
        lr: Highest learning rate.
        epochs: Passes over the training rows.
        random_state: Seed of the whole run.
        settings: Further settings by dotted name, such as ``{"train.batch_size": 16}``.
        folder: Where each fit makes its run folder; a temporary folder, deleted as the program ends, when not given.
            An estimator that is to outlive its process, or was fitted in another one, needs a folder.

    Attributes:
        classes_: Labels as given, sorted: [labels].
        run_: The last fit's run folder.
    """

    def __init__(
        self,
        *,
        backbone: str = "minilm",
        targets: str | Sequence[str] = ("query", "value"),
        r: int = 8,
        alpha: float = 16.0,
        head: str = "lora",
        lr: float = 1e-3,
        epochs: int = 3,
        random_state: int = 0,
        settings: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.backbone, self.targets, self.r, self.alpha, self.head = backbone, targets, r, alpha, head
        self.lr, self.epochs, self.random_state = lr, epochs, random_state
        self.settings, self.folder = settings, folder

    def fit(self, X: Sequence[str], y: Sequence[Any]) -> Self:
        """Train on texts ``X`` [articles] and their labels ``y`` [articles].

        Raises:
            NewsloraError: A setting, a text or the labels are at fault.
            ValueError: ``X`` and ``y`` differ in length, or ``y`` holds no class labels.
        """
        check_consistent_length(X, y)
        self.classes_ = unique_labels(y)
        home = _new_folder(self.folder)
        names = [str(label) for label in self.classes_]
        rows = (json.dumps({"text": text, "label": str(label)}) for text, label in zip(X, y, strict=True))
        write_text(home / "articles.jsonl", "".join(f"{row}\n" for row in rows))
        self.run_ = train(self._config(str(home / "articles.jsonl"), names), home / "run").path
        self._classifier = NewsClassifier.load(self.run_)
        return self

    def predict_proba(self, X: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities [articles, labels], in the order of ``classes_``.

        Raises:
            NewsloraError: A text is empty or not a string.
        """
        check_is_fitted(self, "run_")
        return self._classifier.predict_proba(list(X))

    def predict(self, X: Sequence[str]) -> npt.NDArray[Any]:
        """Return each text's most probable label [articles].

        Raises:
            NewsloraError: A text is empty or not a string.
        """
        rows = self.predict_proba(X)
        labels: npt.NDArray[Any] = self.classes_[rows.argmax(axis=1)]
        return labels

    def _config(self, table: str, names: list[str]) -> RunConfig:
        own = {
            **{"data.train": table, "data.text": ["text"], "data.label": "label", "data.classes": names},
            **{"model.backbone": self.backbone, "model.head": self.head, "lora.targets": self.targets},
            **{"lora.r": self.r, "lora.alpha": self.alpha, "train.lr": self.lr, "train.epochs": self.epochs},
            "train.seed": self.random_state,
        }
        return change(RunConfig(), own | dict(self.settings or {}), type(self).__name__)

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags


def _new_folder(parent: str | Path | None) -> Path:
    if parent is not None:
        Path(parent).mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="newslora-fit-", dir=parent))
    if parent is None:
        atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
