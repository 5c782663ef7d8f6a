"""What fused adapters need of validation rows: their weights, and heads that never met on one scale."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedKFold

from newslora.model.warm_head import repeat_rare, solve

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
ROUNDS = 2
FOLDS = 5
Head = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def search_weights(loss: Callable[[Sequence[float]], float], count: int) -> tuple[float, ...]:
    """Return the weights with the least loss found by going through the adapters, one at a time, twice.

    Args:
        loss: Of a sequence of weights.
        count: Adapters.
    """
    best = (1.0 / count,) * count
    least = loss(best)
    for _ in range(ROUNDS):
        for i in range(count):
            for weight in WEIGHTS:
                tried = (*best[:i], weight, *best[i + 1 :])
                if tried != best and any(tried) and (found := loss(tried)) < least:
                    best, least = tried, found
    return best


@dataclass(frozen=True)
class Match:
    """What brings the logits of heads that never met onto one scale.

    Attributes:
        loss: Mean cross-entropy, in nats.
        scales: [labels], one number within a group.
        shifts: [labels], likewise.
        share: Scale of the logits beside them.
    """

    loss: float
    scales: npt.NDArray[np.float64]
    shifts: npt.NDArray[np.float64]
    share: float = 0.0


def match_heads(
    logits: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    beside: npt.NDArray[np.float64] | None = None,
) -> Match:
    """Fit a scale and a shift to each group of labels, whose logits come from heads that never met.

    Args:
        logits: Of the joined heads, [rows, labels].
        labels: [rows].
        groups: A number for each label, equal for labels of one head, [labels].
        beside: Logits of one head that knows all labels, [rows, labels]; they are added by a scale of their own.
    """
    count = int(groups.max()) + 1
    others = np.zeros(1) if beside is None else beside

    def loss(numbers: npt.NDArray[np.float64]) -> float:
        scales, shifts, share = np.exp(numbers[:count]), numbers[count:-1], np.exp(numbers[-1])
        moved = logits * scales[groups] + shifts[groups] + share * others
        return float(-log_softmax(moved, axis=1)[np.arange(len(labels)), labels].mean())

    found = minimize(loss, np.zeros(2 * count + 1), method="L-BFGS-B")
    share = 0.0 if beside is None else float(np.exp(found.x[-1]))
    return Match(float(found.fun), np.exp(found.x[:count])[groups], found.x[count:-1][groups], share)


def blend_heads(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    head: Head,
) -> tuple[float, Head]:
    """Add what the joined heads say to discriminant functions of few rows.

    Each head tells its own labels apart by all the rows that it was trained on; only the discriminant tells them from
    another head's. Its logits for the fit come from rows left out of it.

    Args:
        features: [rows, width].
        labels: [rows].
        groups: As :func:`match_heads`.
        head: The joined heads' weight [labels, width] and bias [labels].

    Returns:
        The mean cross-entropy of rows left out, in nats, and the blended weight and bias.
    """
    weight, bias = head
    features, labels = repeat_rare(features, labels)
    joined = features @ weight.T + bias
    match = match_heads(joined, labels, groups, _left_out(features, labels))
    own_weight, own_bias = solve(features, labels)
    blended = match.scales[:, None] * weight + match.share * own_weight
    return match.loss, (blended, match.scales * bias + match.shifts + match.share * own_bias)


def _left_out(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    folds = StratifiedKFold(min(FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=0)
    logits = np.zeros((len(labels), int(labels.max()) + 1))
    for kept, left in folds.split(features, labels):
        weight, bias = solve(features[kept], labels[kept])
        logits[left] = features[left] @ weight.T + bias
    return logits
