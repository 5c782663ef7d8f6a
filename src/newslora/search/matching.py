"""What fused adapters need of validation rows: their weights, and heads that never met on one scale."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
ROUNDS = 2


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


def match_heads(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]
) -> tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Fit a scale and a shift to each group of labels, whose logits come from heads that never met.

    Returns:
        The mean cross-entropy, scales [groups], shifts [groups].
    """
    count = int(groups.max()) + 1

    def loss(numbers: npt.NDArray[np.float64]) -> float:
        scales, shifts = np.exp(numbers[:count]), numbers[count:]
        moved = logits * scales[groups] + shifts[groups]
        return float(-log_softmax(moved, axis=1)[np.arange(len(labels)), labels].mean())

    found = minimize(loss, np.zeros(2 * count), method="L-BFGS-B")
    return float(found.fun), np.exp(found.x[:count]), found.x[count:]
