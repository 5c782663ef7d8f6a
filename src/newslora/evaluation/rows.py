"""The rows worth a reader's eye: the highest losses, and confident predictions against the label."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

MOST: Final = 400
_LONGEST_TEXT: Final = 600


def telling_rows(
    probs: np.ndarray,
    labels: np.ndarray | Sequence[int],
    names: Sequence[str],
    places: Sequence[int],
    texts: Sequence[str],
    most: int = MOST,
) -> list[dict[str, Any]]:
    """Return the hardest and the most suspicious rows with their texts.

    Hardest are the rows with the highest loss, the negative logarithm of the label's probability. Most suspicious are
    the rows predicted against their label whose predicted class has the greatest lead in probability over the label:
    the label itself may be wrong.

    Args:
        probs: Class probabilities ``[rows, labels]``.
        labels: Classes ``[rows]``, -1 for a row without one (never returned).
        names: The classes' names, in order.
        places: Each row's line in its file.
        texts: Repaired texts.
        most: Rows of each kind at most.

    Returns:
        One object a row, highest loss first: ``place``, ``text`` (cut short), ``label``, ``predicted``,
        ``confidence`` (probability of the prediction), ``p_label`` (of the label), ``loss`` and ``lead`` (their
        difference, 0 where the prediction is the label).
    """
    truth = np.asarray(labels)
    known = np.flatnonzero(truth >= 0)
    predicted, confidence = probs.argmax(axis=1), probs.max(axis=1)
    of_label = probs[np.arange(len(truth)), truth]
    lead = confidence - of_label
    hardest = known[np.argsort(of_label[known], kind="stable")]
    suspicious = known[np.argsort(-lead[known], kind="stable")]
    wrong = suspicious[lead[suspicious] > 0]
    chosen = set(hardest[:most].tolist()) | set(wrong[:most].tolist())
    return [
        {
            "place": int(places[row]),
            "text": _cut(texts[row]),
            "label": names[truth[row]],
            "predicted": names[predicted[row]],
            "confidence": float(confidence[row]),
            "p_label": float(of_label[row]),
            "loss": float(-np.log(max(of_label[row], np.finfo(np.float64).tiny))),
            "lead": float(lead[row]),
        }
        for row in hardest.tolist()
        if row in chosen
    ]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
