"""What training minimises: cross-entropy or its generalised form, and apart from it an explicit L2 term."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional

from newslora.config import TrainConfig

GCE_Q = 0.7
"""Exponent of the generalised cross-entropy, as its authors give it: 0 is cross-entropy, 1 the mean absolute error."""


class Objective:
    """Cross-entropy, or its generalised form, with label smoothing and class weights, summed over articles.

    The sum is divided by the :meth:`mass` of all articles of a step, so that cutting a step into batches, or sharing
    it among processes, leaves its gradient what it is for the whole. With one batch this is
    ``torch.nn.CrossEntropyLoss(weight, label_smoothing=…)``.
    """

    def __init__(self, config: TrainConfig, labels: Sequence[int], classes: int, device: torch.device) -> None:
        """Weigh the classes by the training labels.

        Args:
            config: The settings.
            labels: Labels of all training rows.
            classes: Number of classes.
            device: Where the logits will be.
        """
        self.smoothing, self.loss, self.classes = config.label_smoothing, config.loss, classes
        self._labels = np.asarray(labels, dtype=np.int64)
        self._weights = balanced_weights(self._labels, classes) if config.class_weights == "balanced" else None
        self._weight = (
            None if self._weights is None else torch.tensor(self._weights, dtype=torch.float32, device=device)
        )

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss summed over the articles, in float32.

        Args:
            logits: [articles, classes].
            labels: int64 [articles].
        """
        if self.loss == "gce":
            return generalised_cross_entropy(logits.float(), self._targets(labels))
        return functional.cross_entropy(
            logits.float(), labels, weight=self._weight, reduction="sum", label_smoothing=self.smoothing
        )

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how many articles have their greatest logit at their label."""
        return (logits.argmax(dim=-1) == labels).sum()

    def _targets(self, labels: Tensor) -> Tensor:
        # As torch's cross-entropy has it: smoothing first, then each class's own weight.
        targets = functional.one_hot(labels, self.classes) * (1 - self.smoothing) + self.smoothing / self.classes
        return targets if self._weight is None else targets * self._weight

    def mass(self, rows: npt.NDArray[np.int64]) -> float:
        """Return the sum of the class weights of training ``rows``: their number when classes are not weighed."""
        return float(len(rows)) if self._weights is None else float(self._weights[self._labels[rows]].sum())


def generalised_cross_entropy(logits: Tensor, targets: Tensor, q: float = GCE_Q) -> Tensor:
    """Return the sum over articles and classes of ``targets · (1 - p^q) / q`` (Zhang & Sabuncu 2018, equation 6).

    An article whose label the model finds improbable pulls with a force that shrinks as p^q, where cross-entropy would
    pull hardest; so wrong labels are learned late or never. As q goes to 0 this becomes cross-entropy.

    Args:
        logits: [articles, classes].
        targets: Mass of each class, [articles, classes]; one 1 a row for plain labels.
        q: In (0, 1].
    """
    return (targets * -torch.expm1(q * torch.log_softmax(logits, dim=-1)) / q).sum()


def balanced_weights(labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float64]:
    """Return each class's weight, rows / (classes present · rows of the class); 1 for a class without rows."""
    present = np.unique(labels)
    weights = np.ones(classes)
    weights[present] = compute_class_weight("balanced", classes=present, y=labels)
    return weights


@torch.no_grad()
def l2_term(parameters: Sequence[nn.Parameter], factor: float) -> float:
    """Return ``factor / 2`` times the squared norm of the parameters."""
    return factor / 2 * float(torch.nn.utils.get_total_norm(parameters)) ** 2 if factor else 0.0


@torch.no_grad()
def add_l2_gradient(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Add the gradient of :func:`l2_term`, ``factor · p``, to the gradient of every parameter ``p``."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.add_(parameter, alpha=factor)
