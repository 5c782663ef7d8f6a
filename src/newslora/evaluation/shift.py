"""How accuracy holds on news unlike the table: raw, anonymous, lower-cased, mistyped, titles alone, long."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from newslora.config import DataConfig
from newslora.data.cleaning import Cleaner
from newslora.data.encoding import encode
from newslora.data.sources import Table, read_table
from newslora.data.windows import encode_windows
from newslora.evaluation.metrics import RESAMPLES, bootstrap_intervals
from newslora.model.classifier import NewsModel, predict_logits

SEED: Final = 0
TYPO_RATE: Final = 0.1
LONG: Final = 8
_SHORTEST_WORD: Final = 4

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Rows:
    """Labelled rows and what the model makes of their plain texts.

    Attributes:
        table: As read; its texts are not repaired.
        texts: Repaired texts, as the model reads them.
        labels: Classes, int64 [rows].
        logits: Scores of ``texts``, float32 [rows, labels].
    """

    table: Table
    texts: list[str]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]


def read_titles(table: Table, data: DataConfig) -> list[str] | None:
    """Return the first text column of a table alone, not repaired; ``None`` where it has only one."""
    if len(table.text_columns) < 2:
        return None
    columns = {"text": table.text_columns[:1], "label": table.label_column}
    return read_table(table.source, data.model_copy(update=columns), split=data.test_split).texts


def measure_shift(
    model: NewsModel, cleaner: Cleaner, rows: Rows, titles: list[str] | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure the model on changed versions of the same rows, and on long articles made of them.

    Only rows that a change touches are predicted anew. An interval of a difference is of the paired bootstrap: both
    versions of a row are drawn together.

    Args:
        model: The classifier.
        cleaner: The run's repair.
        rows: The rows, as :func:`newslora.evaluation.evaluate.evaluate_run` predicted them.
        titles: Their first text column, from :func:`read_titles`.
        progress: Called with the number of articles done since the last call.

    Returns:
        ``seed``, ``interval_method`` and ``variants``, one object each: ``name``, ``title``, ``about``, ``n``,
        ``changed`` (rows whose text differs), ``accuracy``, ``interval_95``, and, unless it is a starting point,
        ``against`` (the variant compared with), ``difference`` and ``difference_95``.
    """
    labels = rows.labels
    variants = [_variant("plain", "as the run reads it", "repaired text, cut to the run's length", rows.logits, labels)]
    for name, title, about, texts in _changed_texts(cleaner, rows, titles):
        touched = np.array([new != old for new, old in zip(texts, rows.texts, strict=True)])
        logits = _predict_touched(model, texts, rows.logits, touched, progress)
        variants.append(
            _variant(name, title, about, logits, labels, base=rows.logits, against="plain")
            | {"changed": int(touched.sum())}
        )
    variants += _windows(model, rows, progress)
    variants += _long_articles(model, rows, progress)
    method = f"percentile bootstrap over rows (paired for differences), {RESAMPLES} resamples, seed {SEED}"
    return {"seed": SEED, "interval_method": method, "variants": variants}


def add_typos(text: str, draw: random.Random, rate: float = TYPO_RATE) -> str:
    """Return a text as a hasty writer types it: words of four letters and more are hit at the given rate.

    A hit word has two inner letters swapped, one left out or one doubled; first and last letters stay (Pruthi et al.
    2019, section 3; Belinkov & Bisk 2018, section 3.2).
    """
    words = text.split(" ")
    return " ".join(_mistype(word, draw) if _long_word(word) and draw.random() < rate else word for word in words)


def window_logits(model: NewsModel, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float32]:
    """Return logits of whole texts: the mean over overlapping windows of the model's length, [texts, labels]."""
    encoded, owner = encode_windows(texts, model.tokenizer, model.max_length)
    logits = predict_logits(model, encoded, progress)
    total = np.zeros((len(texts), logits.shape[1]), dtype=np.float64)
    np.add.at(total, owner, logits)
    return (total / np.bincount(owner, minlength=len(texts))[:, None]).astype(np.float32)


def join_articles(texts: Sequence[str], labels: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """Join articles of one class, eight by eight, into long ones; each article is used once at most, drawn by seed."""
    generator = np.random.default_rng(SEED)
    joined: list[str] = []
    classes: list[int] = []
    for label in np.unique(labels):
        order = generator.permutation(np.flatnonzero(labels == label))
        for start in range(0, len(order) - LONG + 1, LONG):
            joined.append(" ".join(texts[row] for row in order[start : start + LONG]))
            classes.append(int(label))
    return joined, np.array(classes, dtype=np.int64)


def _changed_texts(cleaner: Cleaner, rows: Rows, titles: list[str] | None) -> list[tuple[str, str, str, list[str]]]:
    draw, anonymous = random.Random(SEED), Cleaner(drop_agency=True)  # noqa: S311 - noise, no secret
    changed = [
        ("raw", "raw text", "not repaired: entities, markup and URLs left in", rows.table.texts),
        (
            "no_agency",
            "agency names removed",
            "without “(Reuters)”, “AP -” and the like",
            [anonymous.repair(text) for text in rows.texts],
        ),
        ("lower_case", "lower case", "every letter in lower case", [text.lower() for text in rows.texts]),
        (
            "typos",
            "typos",
            f"one word of four letters and more in {round(1 / TYPO_RATE)} mistyped",
            [add_typos(text, draw) for text in rows.texts],
        ),
    ]
    if titles is not None:
        about = f"the column “{rows.table.text_columns[0]}” alone"
        changed.append(("titles_only", "titles only", about, [cleaner.repair(text) for text in titles]))
    return changed


def _predict_touched(
    model: NewsModel,
    texts: Sequence[str],
    plain: NDArray[np.float32],
    touched: NDArray[np.bool_],
    progress: Progress | None,
) -> NDArray[np.float32]:
    logits = plain.copy()
    if touched.any():
        chosen = [texts[row] for row in np.flatnonzero(touched).tolist()]
        logits[touched] = predict_logits(
            model, encode(chosen, model.tokenizer, model.max_length, cache=False), progress
        )
    return logits


def _windows(model: NewsModel, rows: Rows, progress: Progress | None) -> list[dict[str, Any]]:
    whole = encode(rows.texts, model.tokenizer, model.max_length + 1, cache=False)
    cut = whole.lengths > model.max_length
    logits = rows.logits.copy()
    if cut.any():
        logits[cut] = window_logits(model, [rows.texts[row] for row in np.flatnonzero(cut).tolist()], progress)
    about = f"articles over {model.max_length} tokens read whole: logits averaged over half-overlapping windows"
    variant = _variant("windows", "sliding window", about, logits, rows.labels, base=rows.logits, against="plain")
    return [variant | {"changed": int(cut.sum())}]


def _long_articles(model: NewsModel, rows: Rows, progress: Progress | None) -> list[dict[str, Any]]:
    texts, labels = join_articles(rows.texts, rows.labels)
    if not texts:
        return []
    cut = predict_logits(model, encode(texts, model.tokenizer, model.max_length, cache=False), progress)
    whole = window_logits(model, texts, progress)
    made = f"{LONG} articles of one class joined into one, which is easier than a real one"
    return [
        _variant("long_truncated", "long articles, truncated", f"{made}, the beginning read", cut, labels),
        _variant(
            *("long_windows", "long articles, sliding window", f"{made}, all of it read in windows", whole, labels),
            base=cut,
            against="long_truncated",
        )
        | {"changed": len(texts)},
    ]


def _variant(
    name: str,
    title: str,
    about: str,
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    base: NDArray[np.float32] | None = None,
    against: str | None = None,
) -> dict[str, Any]:
    predicted = logits.argmax(axis=1)
    matrix = confusion_matrix(labels, predicted, labels=np.arange(logits.shape[1]))
    right = predicted == labels
    record = {"name": name, "title": title, "about": about, "n": len(labels), "changed": 0}
    record |= {"accuracy": float(right.mean()), "interval_95": bootstrap_intervals(matrix)["accuracy"]}
    if base is None:
        return record
    difference, interval = _paired(right, base.argmax(axis=1) == labels)
    return record | {"against": against, "difference": difference, "difference_95": interval}


def _paired(right: NDArray[np.bool_], before: NDArray[np.bool_]) -> tuple[float, list[float]]:
    """Return the difference of two accuracies on the same rows and its 95% paired-bootstrap interval."""
    n = len(right)
    better, worse = int((right & ~before).sum()), int((~right & before).sum())
    # Drawing pairs with replacement and counting their kinds is a multinomial draw.
    shares = np.array([better, worse, n - better - worse]) / n
    draws = np.random.default_rng(SEED).multinomial(n, shares, size=RESAMPLES)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    return (better - worse) / n, [float(low), float(high)]


def _long_word(word: str) -> bool:
    return len(word) >= _SHORTEST_WORD and word.isalpha()


def _mistype(word: str, draw: random.Random) -> str:
    place = draw.randrange(1, len(word) - 2)
    return draw.choice(
        (
            word[:place] + word[place + 1] + word[place] + word[place + 2 :],
            word[:place] + word[place + 1 :],
            word[:place] + word[place] + word[place:],
        )
    )
