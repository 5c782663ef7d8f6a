"""Each baseline against scikit-learn's own pipeline, and against chance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from tests.evaluation.rows import prepared

from newslora.config import RunConfig
from newslora.data.prepare import Prepared, Split
from newslora.errors import NewsloraError
from newslora.evaluation import baselines
from newslora.evaluation.baselines import BASELINES, COSTS, find_baseline
from newslora.model.embedding import embed

Rows = tuple[Prepared, RunConfig]


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory, news_backbone: Path) -> Rows:
    return prepared(tmp_path_factory.mktemp("five"), news_backbone)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, news_backbone: Path) -> Rows:
    return prepared(tmp_path_factory.mktemp("two"), news_backbone, topics=2)


def accuracy(scores: np.ndarray, split: Split) -> float:
    return float((scores.argmax(axis=1) == np.array(split.labels)).mean())


def logits(name: str, rows: Rows, split: Split) -> np.ndarray:
    return BASELINES[name](*rows).logits(split.texts, split.encoded)


def best(make: Callable[[float], Any], train: Any, validation: Any, data: Prepared) -> Any:
    """Return scikit-learn's model with the cost that does best on the validation rows, the smallest of equals."""
    models = [make(cost).fit(train, data.train.labels) for cost in COSTS]
    return max(models, key=lambda model: model.score(validation, data.validation.labels))


def tfidf(make: Callable[[float], Any]) -> Callable[[float], Any]:
    return lambda cost: make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), make(cost))


def test_majority_gives_the_training_rows_shares(five: Rows) -> None:
    data, config = five
    train = data.train.take(np.arange(len(data.train.labels))[np.array(data.train.labels) != 3][:77])
    few = Prepared(data.names, train, data.validation, data.test, data.cleaner, data.report)
    scores = baselines.majority(few, config).logits(data.test.texts, data.test.encoded)
    share = np.bincount(train.labels, minlength=5) / 77
    assert softmax(scores, axis=1) == pytest.approx(np.tile(share, (len(scores), 1)))
    assert set(scores.argmax(axis=1)) == {int(share.argmax())}


@pytest.mark.parametrize("rows", ["five", "two"])
def test_svm_is_scikit_learns_on_tfidf(rows: str, request: pytest.FixtureRequest) -> None:
    data, config = request.getfixturevalue(rows)
    own = best(tfidf(lambda cost: LinearSVC(C=cost, random_state=0, max_iter=10_000)), data.train.texts,
               data.validation.texts, data)  # fmt: skip
    scores = logits("svm", (data, config), data.test)
    assert scores.argmax(axis=1).tolist() == own.predict(data.test.texts).tolist()
    decisions = own.decision_function(data.test.texts)
    assert (scores[:, 1] - scores[:, 0] if rows == "two" else scores) == pytest.approx(decisions)
    assert accuracy(scores, data.test) > 0.9


@pytest.mark.parametrize("rows", ["five", "two"])
def test_logistic_is_scikit_learns_on_tfidf(rows: str, request: pytest.FixtureRequest) -> None:
    data, config = request.getfixturevalue(rows)
    own = best(tfidf(lambda cost: LogisticRegression(C=cost, max_iter=2000)), data.train.texts, data.validation.texts,
               data)  # fmt: skip
    probs = softmax(logits("logistic", (data, config), data.test), axis=1)
    assert probs == pytest.approx(own.predict_proba(data.test.texts))


def test_probe_is_scikit_learns_on_the_frozen_backbone(five: Rows) -> None:
    data, config = five
    features = {
        name: embed(config.model.backbone, None, split.encoded, 0).astype(float)
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
    }
    own = best(
        lambda cost: make_pipeline(StandardScaler(), LogisticRegression(C=cost, max_iter=2000)),
        features["train"], features["validation"], data,
    )  # fmt: skip
    scores = logits("probe", five, data.test)
    assert softmax(scores, axis=1) == pytest.approx(own.predict_proba(features["test"]))
    assert accuracy(scores, data.test) > 0.35  # chance: 0.2


def test_the_cost_is_chosen_on_the_validation_rows(five: Rows) -> None:
    """With validation rows whose labels are all wrong, the worst cost of the right ones is the best."""
    data, config = five
    wrong = Split(
        data.validation.texts,
        [(label + 1) % 5 for label in data.validation.labels],
        data.validation.places,
        data.validation.source,
        data.validation.encoded,
    )
    misled = Prepared(data.names, data.train, wrong, data.test, data.cleaner, data.report)
    fits = list(
        baselines._fits(lambda cost: LinearSVC(C=cost, random_state=0), *_tfidf_rows(data), data, _features(data))
    )
    scores = [accuracy(fit.logits(wrong.texts, wrong.encoded), wrong) for fit in fits]
    chosen = baselines.svm(misled, config)
    assert accuracy(chosen.logits(wrong.texts, wrong.encoded), wrong) == max(scores)


def _tfidf_rows(data: Prepared) -> tuple[Any]:
    return (baselines.tfidf().fit_transform(data.train.texts),)


def _features(data: Prepared) -> Any:
    vectoriser = baselines.tfidf().fit(data.train.texts)
    return baselines.Features(tuple(vectoriser.get_feature_names_out()), vectoriser.idf_)


def test_fasttext_learns_and_repeats_itself(five: Rows) -> None:
    data, config = five
    first, again = (logits("fasttext", five, data.test) for _ in range(2))
    assert (first == again).all()
    assert accuracy(first, data.test) > 0.8  # chance: 0.2; after 5 epochs it is no better
    seeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": 1})})
    assert (logits("fasttext", (data, seeded), data.test) != first).any()


def test_fasttexts_own_label_mark_in_a_text_is_a_word(five: Rows) -> None:
    data, config = five
    texts = [f"__label__9 {text}" for text in data.train.texts]
    split = Split(texts, data.train.labels, data.train.places, data.train.source, data.train.encoded)
    marked = Prepared(data.names, split, data.validation, data.test, data.cleaner, data.report)
    scores = baselines.fasttext(marked, config).logits(["__label__9 judge", ""], data.test.encoded)
    assert scores.shape == (2, 5)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", BASELINES)
def test_a_label_without_training_rows_is_not_predicted(name: str, five: Rows) -> None:
    data, config = five
    train = data.train.take(np.flatnonzero(np.array(data.train.labels) != 2))
    without = Prepared(data.names, train, data.validation, data.test, data.cleaner, data.report)
    scores = logits(name, (without, config), data.test)
    assert scores.shape == (len(data.test.labels), 5)
    assert 2 not in scores.argmax(axis=1)
    assert softmax(scores, axis=1)[:, 2].max() < 1e-9


def test_rows_without_a_common_word_are_refused(five: Rows) -> None:
    data, config = five
    split = Split(["one", "two"], [0, 1], [1, 2], "few.csv", data.train.encoded)
    few = Prepared(data.names, split, data.validation, data.test, data.cleaner, data.report)
    with pytest.raises(NewsloraError, match=r"few\.csv: no word stands in two articles"):
        baselines.svm(few, config)


def test_an_unknown_baseline_is_named_with_the_nearest() -> None:
    with pytest.raises(NewsloraError, match=r"newslora baseline logistics: unknown baseline; did you mean logistic\?"):
        find_baseline("logistics")


def test_fasttext_without_its_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fasttext", None)
    with pytest.raises(NewsloraError, match=r"install newslora\[fasttext\]"):
        find_baseline("fasttext")
