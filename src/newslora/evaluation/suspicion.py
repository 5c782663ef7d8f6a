"""How probably each label of a table is wrong, from the articles' embeddings and the labels alone or by a trained run.

Newslora's method takes the right class z of a row for a hidden variable with two witnesses: a classifier of the
article, q(z | x), and the label y that somebody gave, wrong at a rate that depends on the two classes,
T[z, y] = p(y | z). Their parameters are estimated in turns (Dawid & Skene 1979, with the article as evidence as in
Raykar et al. 2010, section 2):

    p(z | x, y) ∝ q(z | x) T[z, y]
    T[z, y] ∝ Σ p(z | x, y) over the rows labelled y
    q ← fitted to p(z | x, y)

q is a logistic regression that never saw the row it judges. A few rounds do: with many, q learns the wrong labels too.
At the end each row's nearest neighbours in embedding space are heard: q is averaged, geometrically, with the mean of
their p(z | x, y). Such a q still explains some wrong labels, so 1 - p(z = y | x, y) ranks well and is too small; it is
raised, alike in log-odds for all rows, until the sum is the number of rows whose likeliest class is not their label.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from newslora.errors import NewsloraError

METHODS: Final = {
    "newslora": "cross-fitted logistic regression with noise rates, and nearest neighbours",
    "cleanlab": "cleanlab's normalized margin of the nearest neighbours' votes",
}
ROUNDS: Final = 5
NEIGHBOURS: Final = 50
_STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FOLDS: Final = 5
_START: Final = 0.8  # share of right labels that the noise rates start from
_LEAST: Final = 0.02  # a class that is less probable than this is left out of a fit
_TINY: Final = 1e-12


@dataclass(frozen=True)
class Judged:
    """What was found out about each row's label.

    Attributes:
        scores: How probable it is that the label is wrong, float64 [rows].
        probs: How probable each class is for the article, its own label unheard, float64 [rows, classes].
        votes: How many of the row's nearest rows bear each label, int64 [rows, classes], or None.
    """

    scores: np.ndarray
    probs: np.ndarray
    votes: np.ndarray | None = None


def judge(method: str, features: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0) -> Judged:
    """Judge labels of which none is known to be right.

    Args:
        method: One of :data:`METHODS`.
        features: Embeddings of length 1, float32 [rows, width].
        labels: int64 [rows], two rows or more of each class that occurs.
        classes: Number of classes.
        seed: Of the folds.

    Raises:
        NewsloraError: cleanlab is asked for and not installed.
    """
    near = nearest_rows(features, classes)
    votes = np.stack([(labels[near] == k).sum(axis=1) for k in range(classes)], axis=1)
    if method == "cleanlab":
        return _judge_by_cleanlab(votes, labels)
    probs, noise = _estimate(features, labels, classes, seed)
    heard = np.sqrt(probs * posterior(probs, labels, noise)[near].mean(axis=1))
    heard /= heard.sum(axis=1, keepdims=True)
    doubts = _doubts(posterior(heard, labels, noise), labels)
    return Judged(raise_to(doubts, int((heard.argmax(axis=1) != labels).sum())), heard, votes)


def judge_known(probs: np.ndarray, labels: np.ndarray) -> Judged:
    """Judge labels by a classifier that learned from other, trusted rows.

    Args:
        probs: Its calibrated probabilities, float64 [rows, classes].
        labels: int64 [rows].
    """
    return Judged(_doubts(probs, labels), probs)


def posterior(probs: np.ndarray, labels: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return p(z | x, y) ∝ q(z | x) T[z, y], float64 [rows, classes].

    Args:
        probs: q, float64 [rows, classes].
        labels: y, int64 [rows].
        noise: T, float64 [classes, classes].
    """
    joint = probs * noise[:, labels].T
    shares: np.ndarray = joint / joint.sum(axis=1, keepdims=True)
    return shares


def update_noise(probs: np.ndarray, labels: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return T estimated from the rows' p(z | x, y); one row is added to each pair, so that no rate is 0."""
    counts = posterior(probs, labels, noise).T @ np.eye(len(noise))[labels] + 1.0
    rates: np.ndarray = counts / counts.sum(axis=1, keepdims=True)
    return rates


def raise_to(doubts: np.ndarray, total: int) -> np.ndarray:
    """Return probabilities [rows] moved alike in log-odds so that they sum to ``total``; their order stays.

    Where ``total`` is 0 or all rows, which no move reaches, they stay as they are.
    """
    odds = logit(np.clip(doubts, _TINY, 1 - _TINY))
    if not 0 < total < len(odds):
        return doubts
    move = brentq(lambda by: float(expit(odds + by).sum()) - total, -80.0, 80.0)
    moved: np.ndarray = expit(odds + move)
    return moved


def nearest_rows(features: np.ndarray, classes: int) -> np.ndarray:
    """Return the positions of each row's nearest other rows, int64 [rows, neighbours].

    There are 50, in a small table fewer: a fifth of a class's mean size.
    """
    count = min(NEIGHBOURS, max(1, len(features) // (5 * classes)))
    nearest: np.ndarray = NearestNeighbors(n_neighbors=count).fit(features).kneighbors(return_distance=False)
    return nearest


class CrossFitting:
    """Logistic regressions, each of which judges the rows that it was not fitted to.

    Args:
        features: float32 [rows, width].
        labels: int64 [rows], two rows or more of each that occurs; they stratify the folds and, by the log-loss of
            held-out rows, choose the regularisation.
        classes: Number of classes.
        seed: Of the folds.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> None:
        self.features = StandardScaler().fit_transform(features)
        sizes = np.bincount(labels)
        fewest = int(sizes[sizes > 0].min())
        folds = StratifiedKFold(min(_FOLDS, fewest), shuffle=True, random_state=seed)
        self.folds = list(folds.split(labels, labels))
        targets, known = np.eye(classes)[labels], range(classes)
        self.strength = min(_STRENGTHS, key=lambda c: log_loss(labels, self.fit(targets, c), labels=known))

    def fit(self, targets: np.ndarray, strength: float | None = None) -> np.ndarray:
        """Return held-out probabilities of fits to ``targets``, both float64 [rows, classes]."""
        probs = np.full(targets.shape, _TINY)
        for fitted, held_out in self.folds:
            model = LogisticRegression(C=strength or self.strength, max_iter=1000)
            rows, kinds = np.nonzero(targets[fitted] > _LEAST)
            model.fit(self.features[fitted[rows]], kinds, sample_weight=targets[fitted[rows], kinds])
            probs[np.ix_(held_out, model.classes_)] = model.predict_proba(self.features[held_out])
        normal: np.ndarray = probs / probs.sum(axis=1, keepdims=True)
        return normal


def _estimate(features: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return q, float64 [rows, classes], and T, float64 [classes, classes]."""
    fitting = CrossFitting(features, labels, classes, seed)
    probs = fitting.fit(np.eye(classes)[labels])
    noise = np.full((classes, classes), (1 - _START) / (classes - 1))
    np.fill_diagonal(noise, _START)
    for _ in range(ROUNDS):
        noise = update_noise(probs, labels, noise)
        probs = fitting.fit(posterior(probs, labels, noise))
    return probs, noise


def _judge_by_cleanlab(votes: np.ndarray, labels: np.ndarray) -> Judged:
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise NewsloraError("--method cleanlab: is not installed; install newslora[audit]") from error
    # Half a vote more for each class, so that none is impossible.
    probs = (votes + 0.5) / (votes + 0.5).sum(axis=1, keepdims=True)
    quality = get_label_quality_scores(labels, probs, method="normalized_margin", adjust_pred_probs=True)
    return Judged(1.0 - np.asarray(quality, dtype=np.float64), probs, votes)


def _doubts(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    doubts: np.ndarray = 1.0 - probs[np.arange(len(labels)), labels]
    return doubts
