"""The baselines that a fine-tuned model has to beat: each a few lines on scikit-learn (fastText on its own library).

All but fastText are linear in some features of an article, so what they learn is a weight and a bias a label. Their
costs, and fastText's epochs, are chosen on the validation rows, as a run's epoch is; the test rows play no part.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from newslora.config import RunConfig
from newslora.data.prepare import Prepared
from newslora.errors import NewsloraError
from newslora.evaluation.baseline_state import Baseline, FastText, Features, Linear, import_fasttext, train_fasttext
from newslora.evaluation.baseline_state import make_tfidf as tfidf
from newslora.values import nearest

COSTS: Final = (0.1, 1.0, 10.0)
"""Values of scikit-learn's C that are tried; the first of the best on the validation rows is kept."""


EPOCHS: Final = (5, 25, 50)
"""Epochs of fastText that are tried; the first of the best on the validation rows is kept."""


def majority(data: Prepared, config: RunConfig) -> Linear:
    """Give every article the training rows' commonest label, with the labels' shares as probabilities."""
    share = np.bincount(data.train.labels, minlength=len(data.names)) / len(data.train.labels)
    return Linear(np.zeros((len(share), 0)), np.log(np.maximum(share, np.finfo(np.float64).tiny)))


def svm(data: Prepared, config: RunConfig) -> Linear:
    """TF-IDF of words and word pairs, and a linear support vector machine (Wang & Manning 2012)."""
    return _on_tfidf(data, lambda cost: LinearSVC(C=cost, random_state=0, max_iter=10_000))


def logistic(data: Prepared, config: RunConfig) -> Linear:
    """TF-IDF of words and word pairs, and logistic regression."""
    return _on_tfidf(data, lambda cost: LogisticRegression(C=cost, max_iter=2000))


def probe(data: Prepared, config: RunConfig) -> Linear:
    """Logistic regression on the frozen backbone's mean token: what fine-tuning has to add to (Alain & Bengio 2016)."""
    features = Features(backbone=config.model.backbone, revision=config.model.revision)
    rows, held_out = (features.of(split.texts, split.encoded) for split in (data.train, data.validation))
    scaler = StandardScaler().fit(rows)
    fits = _fits(lambda cost: LogisticRegression(C=cost, max_iter=2000), scaler.transform(rows), data, features)
    # The scaling is linear too: it goes into the weight and the bias.
    plain = (
        Linear(fit.weight / scaler.scale_, fit.bias - fit.weight @ (scaler.mean_ / scaler.scale_), features)
        for fit in fits
    )
    return _best(plain, held_out, data)


def fasttext(data: Prepared, config: RunConfig) -> FastText:
    """Bag of words and hashed word pairs (Joulin et al. 2016), with its authors' settings for AG News but the epochs.

    Their 5 epochs are for 120,000 rows; few rows need many more.
    """
    rows, labels, seed = data.train, len(data.names), config.train.seed
    library, held_out = import_fasttext(), data.validation
    fits = (train_fasttext(library, rows.texts, rows.labels, labels, seed, epochs) for epochs in EPOCHS)
    return max(fits, key=lambda fit: _accuracy(fit.logits(held_out.texts, held_out.encoded), data))


BASELINES: Final = {function.__name__: function for function in (majority, svm, logistic, fasttext, probe)}


def find_baseline(name: str) -> Callable[[Prepared, RunConfig], Baseline]:
    """Return the function that fits a baseline.

    Raises:
        NewsloraError: There is none of this name, or its library is not installed.
    """
    if name not in BASELINES:
        raise NewsloraError(f"newslora baseline {name}: unknown baseline; {nearest(name, BASELINES)}")
    if name == fasttext.__name__:
        import_fasttext()
    return BASELINES[name]


def _on_tfidf(data: Prepared, make: Callable[[float], Any]) -> Linear:
    vectoriser = tfidf()
    try:
        rows = vectoriser.fit_transform(data.train.texts)
    except ValueError as error:  # scikit-learn's, for an empty vocabulary
        raise NewsloraError(f"{data.train.source}: no word stands in two articles; give more rows") from error
    features = Features(tuple(vectoriser.get_feature_names_out()), vectoriser.idf_)
    held_out = features.of(data.validation.texts, data.validation.encoded)
    return _best(_fits(make, rows, data, features), held_out, data)


def _fits(
    make: Callable[[float], Any], rows: np.ndarray | csr_matrix, data: Prepared, features: Features
) -> Iterator[Linear]:
    for cost in COSTS:
        model = make(cost).fit(rows, data.train.labels)
        yield _by_label(model.classes_, model.coef_, model.intercept_, len(data.names), features)


def _by_label(found: np.ndarray, weight: np.ndarray, bias: np.ndarray, labels: int, features: Features) -> Linear:
    """Return scores for every label in order; one without training rows is all but never predicted."""
    if len(weight) == 1:  # for two labels scikit-learn keeps one function: the second's score over the first's
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    whole = Linear(np.zeros((labels, weight.shape[1])), np.full(labels, -1e4), features)
    whole.weight[found], whole.bias[found] = weight, bias
    return whole


def _best(fits: Iterator[Linear], held_out: np.ndarray | csr_matrix, data: Prepared) -> Linear:
    return max(fits, key=lambda fit: _accuracy(fit.scores(held_out), data))


def _accuracy(scores: np.ndarray, data: Prepared) -> float:
    return float((scores.argmax(axis=1) == np.array(data.validation.labels)).mean())
