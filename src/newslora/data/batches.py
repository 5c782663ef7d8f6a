"""Batches: which articles share a step, and their tokens back to back without padding."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from newslora.data.encoding import Encoded

Rows = npt.NDArray[np.int64]

# Batches drawn together before they are cut by length: large enough that a batch's lengths all but agree,
# small enough that what an article is batched with changes from epoch to epoch.
WINDOW = 64


@dataclass(frozen=True)
class Ends:
    """Where the articles of a batch end, on the GPU that reads it there.

    Attributes:
        positions: int32 [articles + 1]; article i has the tokens from positions[i] to positions[i + 1].
        longest: No article has more tokens.
    """

    positions: torch.Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Ends":
        """Return the ends of articles of these lengths, on a GPU."""
        return cls(send(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device), max(lengths))


@dataclass(frozen=True)
class Batch:
    """Articles of one step, longest first, their tokens concatenated.

    Attributes:
        input_ids: int64 [tokens]; special tokens included, no padding.
        lengths: Tokens of each article, in order; they sum to ``tokens``.
        rows: Position of each article in its split.
        labels: int64 [articles], or None where labels are unknown.
        prefix: float32 [tokens, width], the output of the frozen layers where it was computed before, or None.
        ends: The lengths once more, on a GPU; None elsewhere.
    """

    input_ids: torch.Tensor
    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    labels: torch.Tensor | None = None
    prefix: torch.Tensor | None = None
    ends: Ends | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on ``device`` (a GPU's asynchronously, from pinned memory)."""
        tensors = {"input_ids": self.input_ids, "labels": self.labels, "prefix": self.prefix}
        there = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        moved: dict[str, Any]
        if device.type != "cuda":
            moved = {name: tensor.to(device) for name, tensor in there.items()}
        else:
            moved = {name: send(tensor, device) for name, tensor in there.items()}
            moved["ends"] = Ends.of(self.lengths, device)
        return replace(self, **moved)

    def starts(self) -> list[int]:
        """Return the position of each article's first token in ``input_ids``."""
        return [0, *np.cumsum(self.lengths[:-1]).tolist()] if self.lengths else []


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a GPU; it travels while the host goes on, as it does from pinned memory alone."""
    return tensor.pin_memory().to(device, non_blocking=True)


def make_batch(
    encoded: Encoded,
    rows: Iterable[int],
    labels: Sequence[int] | None = None,
    prefix: Callable[[Sequence[int]], torch.Tensor] | None = None,
) -> Batch:
    """Concatenate the tokens of ``rows``, longest article first (equal lengths keep their order).

    Args:
        encoded: The split's tokens.
        rows: Positions in the split.
        labels: The split's label of every article, by position.
        prefix: Gives the frozen layers' output for rows, where it was computed before.
    """
    lengths = encoded.lengths
    order = sorted((int(row) for row in rows), key=lambda row: -int(lengths[row]))
    tokens = np.concatenate([encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]] for row in order])
    return Batch(
        input_ids=torch.from_numpy(tokens.astype(np.int64)),
        lengths=tuple(int(lengths[row]) for row in order),
        rows=tuple(order),
        labels=None if labels is None else torch.tensor([labels[row] for row in order]),
        prefix=None if prefix is None else prefix(order),
    )


def training_batches(lengths: Rows, *, batch_size: int, batch_tokens: int | None, seed: int, epoch: int) -> list[Rows]:
    """Return the rows of every batch of an epoch: grouped by length within shuffled windows.

    The rows are shuffled, cut into windows of ``WINDOW`` batches, sorted by length within each window, cut into
    batches, and the batches shuffled. The result depends on the arguments alone.

    Args:
        lengths: int64 [articles], tokens of each article.
        batch_size: Articles a batch.
        batch_tokens: If given, batches hold as many articles as fit in this many tokens instead.
        seed: The run's seed.
        epoch: The epoch, counted from 0.
    """
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(lengths))
    mean = float(lengths.mean()) if len(lengths) else 1.0
    window = WINDOW * (batch_size if batch_tokens is None else max(1, int(batch_tokens / mean)))
    batches: list[Rows] = []
    for start in range(0, len(shuffled), window):
        rows = shuffled[start : start + window]
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        batches.extend(_cut(rows, lengths, batch_size, batch_tokens))
    return [batches[i] for i in generator.permutation(len(batches))]


def evaluation_batches(lengths: Rows, batch_tokens: int = 4096) -> list[Rows]:
    """Return all rows in batches of at most ``batch_tokens`` tokens, longest articles first.

    Args:
        lengths: int64 [articles], tokens of each article.
        batch_tokens: Tokens a batch; an article longer than this has a batch of its own.
    """
    return _cut(np.argsort(-lengths, kind="stable"), lengths, len(lengths), batch_tokens)


def _cut(rows: Rows, lengths: Rows, batch_size: int, batch_tokens: int | None) -> list[Rows]:
    if batch_tokens is None:
        return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    batches, start, total = [], 0, 0
    for position, row in enumerate(rows):
        length = int(lengths[row])
        if position > start and total + length > batch_tokens:
            batches.append(rows[start:position])
            start, total = position, 0
        total += length
    return [*batches, rows[start:]] if len(rows) else []
