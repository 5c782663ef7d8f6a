import numpy as np
import pytest

from newslora.evaluation.rows import telling_rows

NAMES = ("World", "Sports", "Business")


def rows_of(n: int = 300, most: int = 20) -> tuple[np.ndarray, np.ndarray, list[dict[str, object]]]:
    generator = np.random.default_rng(0)
    probs = generator.dirichlet([0.3, 0.3, 0.3], size=n)
    labels = generator.integers(-1, 3, size=n)
    return probs, labels, telling_rows(probs, labels, NAMES, range(10, 10 + n), [f"text {i}" for i in range(n)], most)


def test_the_hardest_and_the_most_suspicious_are_all_there() -> None:
    probs, labels, rows = rows_of()
    losses = {10 + i: -np.log(probs[i, k]) for i, k in enumerate(labels) if k >= 0}
    leads = {10 + i: probs[i].max() - probs[i, k] for i, k in enumerate(labels) if k >= 0 and probs[i].argmax() != k}
    chosen = {row["place"] for row in rows}
    hardest, suspicious = (set(sorted(by, key=by.__getitem__)[-20:]) for by in (losses, leads))
    assert chosen == hardest | suspicious
    assert hardest != suspicious


def test_each_row_tells_what_stands_behind_its_place() -> None:
    probs, labels, rows = rows_of()
    for row in rows:
        i = int(str(row["place"])) - 10
        predicted = int(probs[i].argmax())
        assert (row["text"], row["label"], row["predicted"]) == (f"text {i}", NAMES[labels[i]], NAMES[predicted])
        assert row["loss"] == pytest.approx(-np.log(probs[i, labels[i]]))
        assert row["p_label"] == probs[i, labels[i]]
        assert row["lead"] == probs[i, predicted] - probs[i, labels[i]]
    assert [row["loss"] for row in rows] == sorted((row["loss"] for row in rows), reverse=True)


def test_rows_without_a_label_are_never_chosen() -> None:
    _, labels, rows = rows_of(most=1000)
    assert len(rows) == (labels >= 0).sum()


def test_a_label_held_impossible_has_a_finite_loss_and_a_long_text_is_cut() -> None:
    [row] = telling_rows(np.array([[1.0, 0.0, 0.0]]), [2], NAMES, [1], ["word " * 1000])
    assert np.isfinite(row["loss"])
    assert len(row["text"]) == 600
    assert row["text"].endswith("…")
