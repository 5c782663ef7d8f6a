"""The frozen prefix: what the layers below the first LoRA layer make of each article, computed once.

Those layers never change, so their output for an article is the same in every epoch. It is computed in one pass before
training, in evaluation mode and in an order that depends on the articles alone, and kept in half precision: in memory
while it is small, else in a memory-mapped file. Training and validation start from the rounded values always, so a run
that is resumed, and finds or rebuilds its cache, goes on with the same bits.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from newslora.data.batches import evaluation_batches, make_batch
from newslora.data.cache import cache_folder
from newslora.data.encoding import Encoded
from newslora.files import write_text, writing
from newslora.model.classifier import NewsModel

MEMORY = 1 << 30  # bytes kept in memory; what is larger goes to a file
_BLOCK = 1 << 22  # bytes read or written at a time
States = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Prefix:
    """Hidden states below the first LoRA layer, for every article of a split.

    Attributes:
        states: float16 [tokens, width].
        offsets: int64 [articles + 1], where each article starts.
        file: Where the states are mapped from, or None when they are in memory.
    """

    states: States
    offsets: npt.NDArray[np.int64]
    file: Path | None = None

    def __call__(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the states of ``rows`` back to back: float32 [tokens, width]."""
        parts = [self.states[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        return torch.from_numpy(np.concatenate(parts)).float()

    def discard(self) -> None:
        """Delete the file, if there is one; the cache is of no use after the run."""
        if self.file is not None:
            for path in (self.file, _note(self.file)):
                path.unlink(missing_ok=True)


def build_prefix(model: NewsModel, encoded: Encoded, memory: int = MEMORY) -> Prefix | None:
    """Run the frozen layers once over a split, or find what an interrupted run left.

    Args:
        model: The classifier.
        encoded: The split's tokens.
        memory: Bytes kept in memory at most.

    Returns:
        The cache, or None where there is nothing to save: the first layer has LoRA, or the pass is the padded one.

    Raises:
        NewsloraError: The file cannot be written.
    """
    if model.first_layer == 0 or model.encoder is None or not len(encoded):
        return None
    width = int(model.plain.config.hidden_size)
    shape = (len(encoded.ids), width)
    if 2 * shape[0] * shape[1] <= memory:
        states: States = np.empty(shape, dtype=np.float16)
        _fill(model, encoded, states)
        return Prefix(states, encoded.offsets)
    file = cache_folder() / f"prefix-{_key(model, encoded)}.float16"
    if not _is_sound(file, shape):
        _write(model, encoded, file, shape)
    return Prefix(np.memmap(file, dtype=np.float16, mode="r", shape=shape), encoded.offsets, file)


@torch.no_grad()
def _fill(model: NewsModel, encoded: Encoded, states: States) -> None:
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    for rows in evaluation_batches(encoded.lengths):
        batch = make_batch(encoded, rows)
        output = model.below(batch.to(device)).half().cpu().numpy()
        for row, start, length in zip(batch.rows, batch.starts(), batch.lengths, strict=True):
            states[encoded.offsets[row] : encoded.offsets[row + 1]] = output[start : start + length]
    model.train(was_training)


def _write(model: NewsModel, encoded: Encoded, file: Path, shape: tuple[int, int]) -> None:
    with writing(file) as staged:
        # A full disk is an error here; under a mapped file it would kill the process.
        with staged.open("wb") as whole:
            for start in range(0, size := 2 * shape[0] * shape[1], _BLOCK):
                whole.write(bytes(min(_BLOCK, size - start)))
        states = np.memmap(staged, dtype=np.float16, mode="r+", shape=shape)
        _fill(model, encoded, states)
        states.flush()
        note = {"bytes": staged.stat().st_size, "crc32": _checksum(staged)}
    write_text(_note(file), json.dumps(note) + "\n")


def _is_sound(file: Path, shape: tuple[int, int]) -> bool:
    # A file that was cut or altered is made anew, never believed.
    with suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads(_note(file).read_text(encoding="utf-8"))
        size = 2 * shape[0] * shape[1]
        return bool(file.stat().st_size == size == note["bytes"] and _checksum(file) == note["crc32"])
    return False


def _note(file: Path) -> Path:
    return file.with_suffix(".json")


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


def _key(model: NewsModel, encoded: Encoded) -> str:
    digest = hashlib.sha256(json.dumps([model.identity, model.first_layer], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(encoded.ids).data)
    digest.update(np.ascontiguousarray(encoded.offsets).data)
    return digest.hexdigest()[:32]
