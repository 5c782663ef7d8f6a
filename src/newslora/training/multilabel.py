"""Training where an article carries several labels: each label is a question of its own, yes or no."""

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.training.progress import Row

_ONE = "one label an article"


def check_multi_label(config: RunConfig) -> None:
    """Refuse settings that mean nothing where an article carries several labels, or where it carries one.

    Raises:
        NewsloraError: Names the first such setting.
    """
    if not config.data.multi_label:
        if config.data.hierarchy is not None:
            raise NewsloraError("data.hierarchy: an article carries a topic and those above it; set data.multi_label")
        return
    if config.data.hierarchy == config.data.separator:
        raise NewsloraError("data.hierarchy: is data.separator too; give the topics of a label another sign")
    wrong = {
        "train.loss gce": config.train.loss != "cross-entropy",
        "train.label_smoothing": config.train.label_smoothing > 0,
        "train.class_weights": config.train.class_weights != "none",
        "lora.allocation": config.lora.allocation != "none",
        "distill.teacher": config.distill.teacher is not None,
        "distill.unlabelled": config.distill.unlabelled is not None,
        "data.drop": config.data.drop is not None,
    }
    for name, given in wrong.items():
        if given:
            raise NewsloraError(f"{name}: is for {_ONE}; leave it out, or set data.multi_label false")


class MultiLabelObjective:
    """Binary cross-entropy of every label, its mean over the labels summed over articles.

    Args:
        kinds: Which labels each kind of articles carries, float32 [kinds, labels].
        device: Where the logits will be.
    """

    def __init__(self, kinds: npt.NDArray[np.float32], device: torch.device) -> None:
        self._kinds = torch.from_numpy(kinds).to(device)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss summed over the articles, in float32.

        Args:
            logits: [articles, labels].
            labels: Kind of each article, int64 [articles].
        """
        losses = binary_cross_entropy_with_logits(logits.float(), self._kinds[labels], reduction="none")
        return losses.mean(dim=-1).sum()

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how many articles have each of their labels, and no other, above a probability of 0.5."""
        return ((logits > 0) == self._kinds[labels].bool()).all(dim=-1).sum()

    def mass(self, rows: npt.NDArray[np.int64]) -> float:
        """Return the number of the rows."""
        return float(len(rows))


def set_figures(logits: Tensor, truth: npt.NDArray[np.float32]) -> Row:
    """Return validation figures: mean binary cross-entropy; subset accuracy and macro-F1 at a probability of 0.5.

    Args:
        logits: [articles, labels].
        truth: Which labels each carries, of the same shape.
    """
    guesses = logits.numpy() > 0
    return {
        "val_loss": binary_cross_entropy_with_logits(logits.double(), torch.from_numpy(truth).double()).item(),
        "val_accuracy": float(accuracy_score(truth, guesses)),
        "val_macro_f1": float(f1_score(truth, guesses, average="macro", zero_division=0)),
    }
