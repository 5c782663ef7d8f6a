"""Articles as tokens of the backbone's own tokenizer, cut to the greatest length once and for all."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
import tokenizers
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from newslora.data.cache import cached
from newslora.errors import NewsloraError

_BATCH: Final = 512  # texts given to the tokenizer at a time


@dataclass(frozen=True)
class Encoded:
    """Articles' tokens back to back, special tokens included, truncated.

    Attributes:
        ids: Token ids, int32 [tokens].
        offsets: Where each article starts, and the end, int64 [articles + 1].
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each article, int64 [articles]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: NDArray[np.int64]) -> "Encoded":
        """Return the articles at ``rows``, int64 [rows], in that order."""
        offsets = _offsets(self.lengths[rows])
        shift = self.offsets[rows] - offsets[:-1]
        return Encoded(self.ids[np.arange(offsets[-1]) + np.repeat(shift, np.diff(offsets))], offsets)


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, cache: bool = True) -> Encoded:
    """Cut texts into tokens, or take them from the cache.

    Args:
        texts: Repaired texts.
        tokenizer: The backbone's fast tokenizer. What it holds of truncation and padding plays no part.
        max_length: Tokens kept of a text, special tokens included.
        cache: Whether the result is looked up and stored by its content under :func:`newslora.data.cache.cache_folder`.

    Raises:
        NewsloraError: The tokenizer is not a fast one.
    """
    return encode_and_count(texts, tokenizer, max_length, cache)[0]


def encode_and_count(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, cache: bool = True
) -> tuple[Encoded, NDArray[np.int64]]:
    """Do as :func:`encode` and also return each text's tokens before truncation, int64 [texts].

    Raises:
        NewsloraError: The tokenizer is not a fast one.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise NewsloraError(
            f"{tokenizer.name_or_path}: has no fast tokenizer (tokenizer.json); choose another backbone"
        )
    key = _key(texts, tokenizer, max_length) if cache else None
    arrays = cached(key, len(texts), lambda: _tokenise(texts, tokenizer, max_length))
    return Encoded(arrays["ids"], arrays["offsets"]), arrays["counts"]


def _tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_length: int) -> dict[str, NDArray[Any]]:
    backend = tokenizer.backend_tokenizer  # its wrapper takes as long as it does, and of a single text twice as long
    backend.no_padding()
    backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
    backend.encode_special_tokens = tokenizer.split_special_tokens
    specials = tokenizer.num_special_tokens_to_add(pair=False)
    kept: list[NDArray[np.int32]] = []
    counts = np.full(len(texts), specials, dtype=np.int64)
    for start in range(0, len(texts), _BATCH):
        for row, text in enumerate(backend.encode_batch_fast(list(texts[start : start + _BATCH])), start):
            kept.append(np.array(text.ids, dtype=np.int32))
            # What is cut off comes as further pieces of the text, each with special tokens of its own.
            counts[row] += sum(len(piece) - specials for piece in (text, *text.overflowing))
    ids = np.concatenate(kept) if kept else np.empty(0, dtype=np.int32)
    return {"ids": ids, "offsets": _offsets(np.array([len(row) for row in kept])), "counts": counts}


def _offsets(lengths: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _key(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_length: int) -> str:
    """Return a digest of all that decides the result; the texts' lengths keep their borders apart."""
    state = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    sides = {"side": tokenizer.truncation_side, "split_special_tokens": tokenizer.split_special_tokens}
    settings = {"format": 1, "max_length": max_length, "library": tokenizers.__version__, "tokenizer": state} | sides
    digest = sha256(json.dumps(settings, sort_keys=True).encode())
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
