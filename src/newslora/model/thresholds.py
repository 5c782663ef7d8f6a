"""Where a label begins: the thresholds that travel with an adapter whose articles carry several labels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from scipy.special import expit

from newslora.errors import NewsloraError
from newslora.files import read_json, write_text
from newslora.model.about import About
from newslora.model.seal import seal_file

FILE_NAME: Final = "thresholds.json"
_MOST: Final = 1 << 20  # bytes
_ADVICE: Final = 'expected {"separator": TEXT, "thresholds": {LABEL: NUMBER, …}} with the labels of config.json'


@dataclass(frozen=True)
class Thresholds:
    """How probabilities become labels.

    Attributes:
        values: float64 [labels]; an article carries a label from this probability on.
        separator: Stands between the labels of an article where they are written into one cell.
        hierarchy: Stands between the topics of a label such as ``Sports/Tennis``; None where labels are no paths.
        above: Pairs of a label and the one above it (their places), from the top of the hierarchy down.
    """

    values: np.ndarray
    separator: str
    hierarchy: str | None = None
    above: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, values: np.ndarray, names: Sequence[str], separator: str, hierarchy: str | None) -> Self:
        """Return thresholds of labels by these names."""
        return cls(values, separator, hierarchy, () if hierarchy is None else _above(names, hierarchy))

    def carried(self, probabilities: np.ndarray) -> np.ndarray:
        """Return which labels articles carry, bool [articles, labels], from their probabilities of that shape.

        In a hierarchy an article carries a topic only with all that are above it.
        """
        reached: np.ndarray = np.asarray(probabilities) >= self.values
        for below, topic in self.above:
            reached[..., below] &= reached[..., topic]
        return reached


def _above(names: Sequence[str], hierarchy: str) -> tuple[tuple[int, int], ...]:
    places = {name: place for place, name in enumerate(names)}
    ordered = sorted(names, key=lambda name: name.count(hierarchy))
    pairs = ((places[name], places.get(name.rpartition(hierarchy)[0])) for name in ordered)
    return tuple((below, topic) for below, topic in pairs if topic is not None)


def label_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return each label's own probability, the logistic function of its logit, in double precision."""
    values: np.ndarray = expit(np.asarray(logits, dtype=np.float64))
    return values


def save_thresholds(adapter: Path, names: Sequence[str], thresholds: Thresholds, record: dict[str, Any]) -> None:
    """Write ``thresholds.json`` into the adapter's folder.

    Args:
        adapter: The adapter's folder.
        names: The labels' names.
        thresholds: What was tuned.
        record: What was measured when it was tuned, kept for the reader.
    """
    by_name = dict(zip(names, thresholds.values.tolist(), strict=True))
    content = {"separator": thresholds.separator, "hierarchy": thresholds.hierarchy, "thresholds": by_name, **record}
    write_text(adapter / FILE_NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    seal_file(adapter, FILE_NAME)


def load_thresholds(adapter: Path, about: About) -> Thresholds | None:
    """Return the thresholds saved with an adapter, None where an article carries one label.

    Before any were tuned, a label is carried from a probability of 0.5 on.

    Raises:
        NewsloraError: The file is not what :func:`save_thresholds` writes.
    """
    if not about.multi_label:
        return None
    file = adapter / FILE_NAME
    if not file.exists():
        return Thresholds(np.full(len(about.names), 0.5), "|")
    content = read_json(file, _MOST, _ADVICE)
    try:
        values = np.array([float(content["thresholds"][name]) for name in about.names])
        separator, hierarchy = content["separator"], content.get("hierarchy")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise NewsloraError(f"{file}: holds no thresholds; {_ADVICE}") from error
    if not isinstance(separator, str) or not separator or not bool(((values >= 0) & (values <= 1)).all()):
        raise NewsloraError(f"{file}: a threshold is not between 0 and 1, or the separator no text; {_ADVICE}")
    if hierarchy is not None and not (isinstance(hierarchy, str) and hierarchy):
        raise NewsloraError(f"{file}: hierarchy is no text; expected what stands between topics, or null")
    return Thresholds.of(values, about.names, separator, hierarchy)
