"""EVA's start of the low-rank matrices (Paischer et al. 2024, arXiv 2410.07170).

Each A starts from the right singular vectors of its module's inputs on training articles, and B from zero.
"""

from typing import Any

import numpy as np
import torch
from peft import initialize_lora_eva_weights
from torch import nn

from newslora.data.encoding import Encoded
from newslora.model.classifier import NewsModel

ROWS, BATCH = 1024, 32


def start_from_inputs(model: NewsModel, encoded: Encoded, seed: int) -> None:
    """Set every A by EVA from at most ``ROWS`` training articles drawn by seed.

    Args:
        model: Freshly built with ``lora.init`` ``eva``.
        encoded: The training split's tokens.
        seed: The run's seed.
    """
    rows = np.random.default_rng(seed).permutation(len(encoded))[:ROWS]
    batches = [padded(model, encoded, rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    config: Any = model.peft.peft_config["default"]
    before = config.target_modules, config.rank_pattern, config.alpha_pattern
    initialize_lora_eva_weights(model.peft, batches, show_progress_bar=False)
    # peft rewrites these in its own words; ours are stricter and mean the same at rho = 1.
    config.target_modules, config.rank_pattern, config.alpha_pattern = before


def padded(model: NewsModel, encoded: Encoded, rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Return ``rows`` as transformers takes them: ``input_ids`` and ``attention_mask``, int64 [rows, longest]."""
    articles = [
        torch.from_numpy(encoded.ids[encoded.offsets[r] : encoded.offsets[r + 1]].astype(np.int64)) for r in rows
    ]
    pad = model.tokenizer.pad_token_id
    ids = nn.utils.rnn.pad_sequence(articles, batch_first=True, padding_value=float(0 if pad is None else pad))
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(article) for article in articles]).unsqueeze(1)
    return {"input_ids": ids, "attention_mask": mask.long()}
