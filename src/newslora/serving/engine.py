"""What answers under a name, and one batch of texts for any mixture of names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from newslora.errors import NewsloraError

Answer = np.ndarray | NewsloraError  # probabilities, float64 [labels], or what is wrong with the text


@dataclass(frozen=True)
class Word:
    """A word of the text as the model read it.

    Attributes:
        text: The word.
        start: Position of its first character.
        end: Position after its last character.
        weight: How much it spoke for the label (above 0) or against it (below 0), in units of the logits' margin.
    """

    text: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Explanation:
    """Which words spoke for a label.

    Attributes:
        label: Position of the label.
        probabilities: float64 [labels], of the text as it stands.
        text: The repaired text that the words' positions refer to.
        words: The words read, in order; what follows the last one was cut off.
    """

    label: int
    probabilities: np.ndarray
    text: str
    words: list[Word]


Explain = Callable[[str, int | None], Explanation]


class Runner(Protocol):
    """What runs texts of one or several models together."""

    def run(self, groups: "Sequence[tuple[Served, Sequence[str]]]") -> list[np.ndarray]:
        """Return, for each group of repaired texts, probabilities, float64 [texts, labels]."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model under its name.

    Attributes:
        name: What requests call it.
        labels: Label names.
        max_length: Tokens read of a text.
        removable: Whether it came from the folder of adapters, and so may be removed and renewed.
        stamp: What changes when its files do.
        repair: Text as the model reads it; raises NewsloraError where nothing is left.
        runner: What runs it.
        part: What the runner keeps for it.
        explain: Explains a repaired text for a label (the likeliest when None); None where it cannot be explained.
    """

    name: str
    labels: tuple[str, ...]
    max_length: int
    removable: bool
    stamp: int
    repair: Callable[[object], str]
    runner: Runner
    part: Any
    explain: Explain | None


def answer(items: Sequence[tuple[Served, str]]) -> list[Answer]:
    """Classify texts, each by its own model.

    Args:
        items: Models and texts as they came.

    Returns:
        For each item its probabilities, or what is wrong with its text.
    """
    answers: list[Answer | None] = [None] * len(items)
    groups: dict[Served, list[tuple[int, str]]] = {}
    for i, (served, text) in enumerate(items):
        try:
            groups.setdefault(served, []).append((i, served.repair(text)))
        except NewsloraError as error:
            answers[i] = error
    for runner in dict.fromkeys(served.runner for served in groups):
        members = [(served, rows) for served, rows in groups.items() if served.runner is runner and rows]
        results = runner.run([(served, [text for _, text in rows]) for served, rows in members])
        for (_, rows), result in zip(members, results, strict=True):
            for (i, _), row in zip(rows, result, strict=True):
                answers[i] = row
    return [found for found in answers if found is not None]
