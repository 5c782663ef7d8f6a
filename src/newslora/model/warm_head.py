"""A head that starts warm: the output layer solved in closed form on the frozen features.

At the first step LoRA's update is zero, so the features are the backbone's own. Linear discriminant analysis with
Ledoit-Wolf shrinkage fits the output layer to them in one pass over some articles, and one scalar, chosen on articles
left out of the fit, brings its logits to the scale that cross-entropy likes best. Training then starts from a real
classifier instead of from noise.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from torch import nn

from newslora.data.encoding import Encoded
from newslora.model.classifier import NewsModel
from newslora.model.features import logits_and_features

ROWS = 2000
"""Twice as many begin a point better and take as long as training on 800 articles (docs/log.md, 2026-11-28)."""
_FEWEST = 4


def warm_head(
    model: NewsModel, encoded: Encoded, labels: list[int], seed: int, kinds: npt.NDArray[np.float32] | None = None
) -> None:
    """Set the output layer's weight and bias from at most ``ROWS`` training articles drawn by seed.

    Where articles carry several labels, each label is told from its absence in the same way; one that fewer than two
    rows carry, or fewer than two lack, keeps its random start.

    Args:
        model: A freshly built model.
        encoded: The training split's tokens.
        labels: The training split's labels; every label must occur.
        seed: The run's seed.
        kinds: Where articles carry several labels, which of them each kind carries, [kinds, labels].
    """
    rows = draw(np.asarray(labels), seed)
    _, features = logits_and_features(model, encoded.take(rows))
    drawn, layer = np.asarray(labels)[rows], model.output_layer
    if kinds is not None:
        _set_each(layer, features, kinds[drawn].astype(np.int64))
        return
    weight, bias = solve(features, drawn)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))


@torch.no_grad()
def _set_each(layer: nn.Linear, features: npt.NDArray[np.float32], carried: npt.NDArray[np.int64]) -> None:
    for label, has in enumerate(carried.T):
        if np.bincount(has, minlength=2).min() >= 2:
            weight, bias = solve(features, has)
            # The logistic function of the two logits' difference is the second's share in their softmax.
            layer.weight[label] = torch.from_numpy(weight[1] - weight[0])
            layer.bias[label] = float(bias[1] - bias[0])


def solve(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return weight [labels, width] and bias [labels] of the scaled discriminant functions, which add up to 0.

    Args:
        features: float32 [articles, width].
        labels: int64 [articles]; labels 0 to k - 1 all occur.
    """
    features, labels = repeat_rare(features, labels)
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    folds = min(5, int(np.bincount(labels).min()))
    held_out = cross_val_predict(discriminant, features, labels, cv=folds, method="decision_function")
    fitted = discriminant.fit(features, labels)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:  # for two classes scikit-learn keeps one function: the second's logit over the first's
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        held_out = np.stack([-held_out / 2, held_out / 2], axis=1)
    scale = _best_scale(held_out, labels)
    # What all classes share changes no probability, but makes large logits, of which float32 keeps fewer digits.
    return scale * (weight - weight.mean(axis=0)), scale * (bias - bias.mean())


def repeat_rare(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the articles, those of a rare label several times: its spread, with some left out, takes a few of them."""
    repeats = np.ceil(_FEWEST / np.bincount(labels)).astype(np.int64)[labels]
    return features.repeat(repeats, axis=0), labels.repeat(repeats)


def _best_scale(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    def loss(log_scale: float) -> float:
        return float(log_loss(labels, softmax(logits * np.exp(log_scale), axis=1), labels=range(logits.shape[1])))

    return float(np.exp(minimize_scalar(loss, bounds=(-5.0, 2.0), method="bounded").x))


def draw(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Return the positions of at most ``ROWS`` articles, and of two of each label if there are."""
    rows = np.random.default_rng(seed).permutation(len(labels))
    # Two of each label at least, or the discriminant has no spread to measure.
    rare = [rows[labels[rows] == label][:2] for label in np.unique(labels)]
    return np.unique(np.concatenate([rows[:ROWS], *rare]))
