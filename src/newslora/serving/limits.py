"""How much is accepted, and for how long anyone waits."""

from dataclasses import dataclass
from typing import Final

MAX_TEXTS: Final = 256
"""Texts a request."""
MAX_CHARACTERS: Final = 50_000
"""Characters a text, about ten times what any backbone reads of it."""


@dataclass(frozen=True)
class Limits:
    """What the server grants.

    Attributes:
        body_bytes: Largest request body.
        receive_seconds: For a request to arrive, first its head, then its body.
        answer_seconds: For an answer, once the request has arrived.
        batch_tokens: Tokens (estimated) that run together.
        queue_tokens: Tokens (estimated) that may wait; beyond them requests are refused. A request that finds nothing
            waiting is accepted whatever its size.
        explanations: Explanations that may wait or run.
    """

    body_bytes: int = 2 << 20
    receive_seconds: float = 10.0
    answer_seconds: float = 60.0
    batch_tokens: int = 2048
    queue_tokens: int = 16_384
    explanations: int = 8


def estimate_tokens(text: str, max_length: int) -> int:
    """Return about how many tokens a model reads of a text: one for four characters, never above ``max_length``."""
    return min(max_length, 2 + len(text) // 4)
