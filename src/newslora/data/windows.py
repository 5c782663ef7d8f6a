"""Long articles as overlapping windows, so that words beyond the greatest length are read too."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from newslora.data.encoding import Encoded


def encode_windows(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Encoded, NDArray[np.int64]]:
    """Cut texts into windows of at most ``max_length`` tokens, each half over the one before it.

    A text that fits is one window, the same as :func:`newslora.data.encoding.encode` makes of it.

    Args:
        texts: Repaired texts, at least one.
        tokenizer: The backbone's fast tokenizer.
        max_length: Tokens of a window, special tokens included.

    Returns:
        The windows, and the text (its position) that each belongs to, int64 [windows], ascending.
    """
    overlap = (max_length - tokenizer.num_special_tokens_to_add(pair=False)) // 2
    batch = tokenizer(
        list(texts),
        **{"padding": False, "truncation": True, "max_length": max_length, "stride": overlap},
        **{"return_overflowing_tokens": True, "return_attention_mask": False, "return_token_type_ids": False},
    )
    pieces = batch["input_ids"]
    offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    ids = np.fromiter((token for piece in pieces for token in piece), dtype=np.int32, count=int(offsets[-1]))
    return Encoded(ids, offsets), np.array(batch["overflow_to_sample_mapping"], dtype=np.int64)
