"""Sentence embeddings of the frozen backbone: the mean of the last layer's tokens, scaled to length 1.

A sentence encoder such as MiniLM was trained for the mean (Reimers & Gurevych 2019, arXiv 1908.10084); near articles
then lie near each other whatever their labels are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from newslora.data.batches import evaluation_batches
from newslora.data.encoding import Encoded
from newslora.model.backbone import load_backbone


@torch.no_grad()
def embed(
    backbone: str,
    revision: str | None,
    encoded: Encoded,
    padding: int,
    progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Run the frozen backbone once over a split.

    Args:
        backbone: Hub id, local folder or alias.
        revision: Revision of a hub backbone.
        encoded: The split's tokens.
        padding: The tokenizer's padding token.
        progress: Called with the number of articles done after each batch.

    Returns:
        float32 [articles, width], each row of length 1.

    Raises:
        NewsloraError: No such backbone.
    """
    encoder: Any = load_backbone(backbone, revision, ("", ""), None)[0].base_model.eval()
    embeddings = np.empty((len(encoded), int(encoder.config.hidden_size)), dtype=np.float32)
    for rows in evaluation_batches(encoded.lengths):  # by length: next to nothing is padding
        ids, mask = _pad(encoded, rows, padding)
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (states * mask.unsqueeze(-1)).sum(dim=1)  # the length of 1 makes the division needless
        embeddings[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
        if progress is not None:
            progress(len(rows))
    return embeddings


def _pad(encoded: Encoded, rows: npt.NDArray[np.int64], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask, int64 [rows, longest]."""
    articles = [torch.from_numpy(encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]]).long() for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(articles, batch_first=True, padding_value=padding)
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(encoded.lengths[rows]).unsqueeze(1)
    return ids, mask.long()
