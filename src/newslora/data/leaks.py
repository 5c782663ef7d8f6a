"""Rows that stand on both sides of a split, after normalising: they flatter what is measured."""

from collections.abc import Sequence
from typing import Any, Final

from newslora.data.duplicates import normalise

EXAMPLES: Final = 3
_LONGEST_EXAMPLE: Final = 160


def example(text: str, place: str) -> dict[str, str]:
    """Return a row for a report: its place, and its text cut short."""
    return {"place": place, "text": text if len(text) <= _LONGEST_EXAMPLE else f"{text[: _LONGEST_EXAMPLE - 1]}…"}


def find_leaks(
    texts: Sequence[str], places: Sequence[str], other_texts: Sequence[str], other_places: Sequence[str]
) -> dict[str, Any]:
    """Count the rows of ``texts`` that also stand among ``other_texts``.

    Args:
        texts: Repaired texts of the side that measures.
        places: ``file:line`` of each.
        other_texts: Repaired texts of the side that is learned or chosen from.
        other_places: ``file:line`` of each.

    Returns:
        ``rows``, and up to three ``examples`` with ``place``, ``text`` and the other side's place as ``also``.
    """
    known: dict[str, str] = {}
    for text, place in zip(other_texts, other_places, strict=True):
        known.setdefault(normalise(text), place)
    keys = [normalise(text) for text in texts]
    shared = [row for row, key in enumerate(keys) if key in known]
    examples = [example(texts[row], places[row]) | {"also": known[keys[row]]} for row in shared[:EXAMPLES]]
    return {"rows": len(shared), "examples": examples}
