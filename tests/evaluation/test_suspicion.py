import sys

import numpy as np
import pytest
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict

from newslora import NewsloraError
from newslora.evaluation.suspicion import (
    CrossFitting,
    judge,
    judge_known,
    nearest_rows,
    posterior,
    raise_to,
    update_noise,
)

NOISE = np.array([[0.98, 0.01, 0.01], [0.40, 0.59, 0.01], [0.02, 0.18, 0.80]])  # most of what is wrong is a 1 called 0


def clusters(rows: int = 900, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embeddings, labels as given and right classes of three overlapping clusters of articles."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(3, size=rows)
    features = np.eye(3, 24)[truth] * 2.2 + draw.normal(size=(rows, 24)) * 0.8
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = np.array([draw.choice(3, p=NOISE[z]) for z in truth])
    return features.astype(np.float32), labels, truth


def test_it_finds_systematically_wrong_labels_better_than_what_it_starts_from_and_than_cleanlab() -> None:
    scores: dict[str, list[float]] = {"ours": [], "cleanlab": [], "plain": []}
    for seed in range(3):
        features, labels, truth = clusters(seed=seed)
        wrong = labels != truth
        probs = cross_val_predict(LogisticRegression(), features, labels, method="predict_proba")
        found = {"ours": judge("newslora", features, labels, 3), "cleanlab": judge("cleanlab", features, labels, 3)}
        for name, judged in found.items():
            scores[name].append(average_precision_score(wrong, judged.scores))
        scores["plain"].append(average_precision_score(wrong, 1 - probs[np.arange(900), labels]))
    ours, cleanlab, plain = (np.mean(scores[name]) for name in ("ours", "cleanlab", "plain"))
    assert ours > cleanlab + 0.02 and ours > plain + 0.05 and ours > 0.9


def test_scores_add_up_to_the_rows_whose_likeliest_class_is_another_and_flag_mostly_wrong_ones() -> None:
    features, labels, truth = clusters()
    judged = judge("newslora", features, labels, 3)
    assert judged.scores.sum() == pytest.approx((judged.probs.argmax(axis=1) != labels).sum(), abs=1e-6)
    flagged = judged.scores >= 0.5
    assert (labels != truth)[flagged].mean() > 0.8 and flagged.sum() > 0.5 * (labels != truth).sum()


def test_the_posterior_is_bayes_rule() -> None:
    probs, labels = np.array([[0.2, 0.5, 0.3]]), np.array([1])
    joint = [0.2 * NOISE[0, 1], 0.5 * NOISE[1, 1], 0.3 * NOISE[2, 1]]
    assert posterior(probs, labels, NOISE)[0] == pytest.approx(np.array(joint) / sum(joint))


def test_noise_rates_are_recovered_where_the_classes_are_known() -> None:
    draw = np.random.default_rng(5)
    truth = draw.integers(3, size=60_000)
    labels = np.array([draw.choice(3, p=NOISE[z]) for z in truth])
    assert update_noise(np.eye(3)[truth], labels, np.full((3, 3), 1 / 3)) == pytest.approx(NOISE, abs=0.01)


def test_no_fit_sees_the_row_that_it_judges() -> None:
    features, labels, _ = clusters(150)
    fitting = CrossFitting(features, labels, 3, seed=0)
    targets = np.eye(3)[labels]
    before = fitting.fit(targets)
    for fitted, held_out in fitting.folds:
        assert np.intersect1d(fitted, held_out).size == 0
    held_out = fitting.folds[2][1]
    changed = targets.copy()
    changed[held_out] = np.roll(changed[held_out], 1, axis=1)
    after = fitting.fit(changed)
    assert np.array_equal(before[held_out], after[held_out])
    assert not np.allclose(np.delete(before, held_out, axis=0), np.delete(after, held_out, axis=0))


def test_soft_targets_weigh_as_their_shares() -> None:
    features, labels, _ = clusters(150)
    fitting = CrossFitting(features, labels, 3, seed=0)
    targets = np.random.default_rng(1).dirichlet(np.ones(3), size=150)
    targets[targets < 0.05] = 0.0
    fitted, held_out = fitting.folds[0]
    model = LogisticRegression(C=fitting.strength, max_iter=1000)
    thrice = np.tile(fitting.features[fitted], (3, 1))
    model.fit(thrice, np.repeat(range(3), len(fitted)), sample_weight=targets[fitted].T.ravel())
    expected = model.predict_proba(fitting.features[held_out])
    np.testing.assert_allclose(fitting.fit(targets)[held_out], expected, atol=2e-3)


def test_raising_keeps_the_order_and_meets_the_sum() -> None:
    doubts = np.array([0.0, 1e-6, 0.01, 0.2, 0.4, 1.0])
    raised = raise_to(doubts, 3)
    assert raised.sum() == pytest.approx(3) and (np.diff(raised) > 0).all()
    assert np.array_equal(raise_to(doubts, 0), doubts) and np.array_equal(raise_to(doubts, 6), doubts)


def test_neighbours_are_other_rows_and_the_nearest() -> None:
    features, _, _ = clusters(120)
    near = nearest_rows(features, 3)
    assert near.shape == (120, 8)
    distances = np.linalg.norm(features - features[7], axis=1)
    distances[7] = np.inf
    assert set(near[7]) == set(np.argsort(distances)[:8])


def test_a_trained_run_is_taken_at_its_word() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05]])
    assert judge_known(probs, np.array([2, 1])).scores.tolist() == pytest.approx([0.9, 0.1])


def test_cleanlab_is_asked_with_the_neighbours_votes() -> None:
    features, labels, _ = clusters(300)
    judged = judge("cleanlab", features, labels, 3)
    assert judged.votes is not None
    probs = (judged.votes + 0.5) / (judged.votes + 0.5).sum(axis=1, keepdims=True)
    theirs = get_label_quality_scores(labels, probs, method="normalized_margin", adjust_pred_probs=True)
    np.testing.assert_allclose(judged.scores, 1 - theirs)


def test_without_cleanlab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    with pytest.raises(NewsloraError, match=r"--method cleanlab: is not installed; install newslora\[audit\]"):
        judge("cleanlab", *clusters(60)[:2], 3)


def test_a_named_class_without_rows_does_no_harm() -> None:
    features, labels, truth = clusters()
    three, four = (judge("newslora", features, labels, classes) for classes in (3, 4))
    wrong = labels != truth
    assert average_precision_score(wrong, four.scores) == pytest.approx(
        average_precision_score(wrong, three.scores), abs=0.02
    )
    assert (four.probs[:, 3] < 1e-3).all()
