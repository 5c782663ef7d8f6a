import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from tests.newsroom import articles

from newslora import NewsClassifier, NewsloraError
from newslora.sklearn import LoraTextClassifier

ROWS = articles(240, topics=3)
TEXTS, TOPICS = [text for _, text in ROWS], [topic for topic, _ in ROWS]


@pytest.fixture(scope="module")
def estimator(news_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> LoraTextClassifier:
    folder = tmp_path_factory.mktemp("sklearn")
    return LoraTextClassifier(backbone=str(news_backbone), targets="all-linear", lr=1e-2, folder=folder)


@pytest.fixture(scope="module")
def fitted(estimator: LoraTextClassifier) -> LoraTextClassifier:
    return clone(estimator).fit(TEXTS[:200], TOPICS[:200])  # type: ignore[no-any-return]


def test_learns_and_tells_probabilities_in_the_order_of_the_classes(fitted: LoraTextClassifier) -> None:
    assert fitted.classes_.tolist() == sorted(set(TOPICS))
    assert fitted.score(TEXTS[200:], TOPICS[200:]) > 0.8
    rows = fitted.predict_proba(TEXTS[200:])
    assert rows.shape == (40, 3)
    assert fitted.predict(TEXTS[200:]).tolist() == [fitted.classes_[row.argmax()] for row in rows]


def test_the_run_folder_says_the_same(fitted: LoraTextClassifier) -> None:
    np.testing.assert_array_equal(
        NewsClassifier.load(fitted.run_).predict_proba(TEXTS[:9]), fitted.predict_proba(TEXTS[:9])
    )


@pytest.mark.parametrize(
    "labels", [{"Courts": 7, "Farming": 2, "Shipping": 31}, {"Courts": 1, "Farming": 2, "Shipping": 0}]
)
def test_labels_come_back_as_they_were_given(estimator: LoraTextClassifier, labels: dict[str, int]) -> None:
    wanted = np.array([labels[topic] for topic in TOPICS])
    model = clone(estimator).fit(np.array(TEXTS[:200]), wanted[:200])
    found = model.predict(pandas.Series(TEXTS[200:]))
    assert found.dtype == wanted.dtype
    assert (found == wanted[200:]).mean() > 0.8


def test_cross_validation_and_grid_search_around_it(estimator: LoraTextClassifier) -> None:
    small = clone(estimator).set_params(epochs=1)
    assert len(cross_val_score(small, TEXTS, TOPICS, cv=2, error_score="raise")) == 2
    search = GridSearchCV(small, {"r": [1, 4]}, cv=2, error_score="raise").fit(TEXTS, TOPICS)
    assert search.best_params_["r"] in (1, 4)
    assert set(search.predict(TEXTS[:6])) <= set(TOPICS)


def test_further_settings_reach_the_run(estimator: LoraTextClassifier) -> None:
    model = clone(estimator).set_params(epochs=1, settings={"train.batch_size": 64, "data.near_duplicates": False})
    config = (Path(model.fit(TEXTS, TOPICS).run_) / "config.yaml").read_text(encoding="utf-8")
    assert "batch_size: 64" in config
    assert "near_duplicates: false" in config


def test_a_fitted_estimator_travels_to_another_process(fitted: LoraTextClassifier) -> None:
    twin: Any = pickle.loads(pickle.dumps(fitted))  # noqa: S301 - what joblib does
    np.testing.assert_array_equal(twin.predict_proba(TEXTS[:9]), fitted.predict_proba(TEXTS[:9]))


def test_faults_are_told(estimator: LoraTextClassifier, fitted: LoraTextClassifier) -> None:
    with pytest.raises(NotFittedError):
        clone(estimator).predict(TEXTS[:1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clone(estimator).fit(TEXTS[:3], TOPICS[:2])
    with pytest.raises(NewsloraError, match="unknown setting"):
        clone(estimator).set_params(settings={"train.epoch": 2}).fit(TEXTS, TOPICS)
    with pytest.raises(NewsloraError, match=r"texts\[1\]: no text"):
        fitted.predict([TEXTS[0], " "])
