"""Which words spoke for a label: integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) by captum.

The path runs from the text with every word replaced by padding to the text itself. What is explained is the label's
logit above the mean of the others', to which the words' weights sum up (but for the error of the integral's steps).
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients

from newslora.data.batches import Batch
from newslora.model.classifier import NewsModel
from newslora.model.temperature import probabilities
from newslora.serving.engine import Explanation, Word

FEWEST, MOST = 16, 64
"""Steps of the integral: as many as fit in one batch, for the words of a short text weigh more and bend it more."""
_TOKENS = 2048  # that run together
Forward = Callable[[torch.Tensor, Batch], torch.Tensor]


def explain(model: NewsModel, forward: Forward, temperature: float, text: str, label: int | None) -> Explanation:
    """Weigh the words of a text.

    Args:
        model: The classifier, whose family has a packed pass.
        forward: Logits [articles, labels] for embeddings [tokens, width] of a batch.
        temperature: The classifier's temperature.
        text: A repaired text.
        label: The label's position; the likeliest when None.
    """
    tokens: Any = model.tokenizer(
        text, truncation=True, max_length=model.max_length, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    ids, special = torch.tensor(tokens["input_ids"]), torch.tensor(tokens["special_tokens_mask"]).bool()
    x = _embed(model, ids).requires_grad_()
    with torch.no_grad():
        logits = forward(x, _batch(ids, 1)).float().numpy()
    target = int(logits[0].argmax()) if label is None else label
    padding = int(model.tokenizer.pad_token_id or 0)
    weights = _integrate(forward, ids, x, _embed(model, torch.where(special, ids, padding)), target)
    words = _words(text, tokens.word_ids(), tokens["offset_mapping"], weights)
    return Explanation(target, probabilities(logits, temperature)[0], text, words)


def _batch(ids: torch.Tensor, copies: int) -> Batch:
    return Batch(ids.repeat(copies), (len(ids),) * copies, tuple(range(copies)))


def _embed(model: NewsModel, ids: torch.Tensor) -> torch.Tensor:
    if model.encoder is None:
        raise RuntimeError("the padded pass does not start from embeddings")
    with torch.no_grad():
        return model.encoder.embed(_batch(ids, 1))


def _integrate(forward: Forward, ids: torch.Tensor, x: torch.Tensor, baseline: torch.Tensor, target: int) -> np.ndarray:
    """Return each token's weight, float64 [tokens]."""

    def margin(points: torch.Tensor) -> torch.Tensor:
        logits = forward(points.flatten(0, 1), _batch(ids, len(points)))
        others = (logits.sum(dim=1) - logits[:, target]) / max(1, logits.shape[1] - 1)
        return logits[:, target] - others

    gradients: Any = IntegratedGradients(margin)
    together = max(1, _TOKENS // len(ids))
    steps = min(MOST, max(FEWEST, together))
    shares = gradients.attribute(
        x.unsqueeze(0), baselines=baseline.unsqueeze(0), n_steps=steps, internal_batch_size=together
    )
    weights: np.ndarray = shares.detach().sum(dim=-1)[0].double().numpy()
    return weights


def _words(text: str, numbers: list[int | None], offsets: list[tuple[int, int]], weights: np.ndarray) -> list[Word]:
    words = []
    for number, group in groupby(range(len(numbers)), key=lambda token: numbers[token]):
        tokens = list(group)
        start, end = offsets[tokens[0]][0], offsets[tokens[-1]][1]
        if number is not None and end > start:
            words.append(Word(text[start:end], start, end, float(weights[tokens].sum())))
    return words
