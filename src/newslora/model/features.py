"""Features: what a classifier's output layer sees of each article."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from newslora.data.encoding import Encoded
from newslora.model.classifier import NewsModel, predict_logits

Numbers = npt.NDArray[np.float32]


@contextmanager
def watch_features(model: NewsModel, *, gradients: bool = False) -> Iterator[list[torch.Tensor]]:
    """Collect the features [articles, width] of every forward pass inside the block.

    Args:
        model: The classifier.
        gradients: Keep what a backward pass through them takes.
    """
    seen: list[torch.Tensor] = []

    def see(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0] if gradients else inputs[0].detach())

    hook = model.output_layer.register_forward_pre_hook(see)
    try:
        yield seen
    finally:
        hook.remove()


def logits_and_features(model: NewsModel, encoded: Encoded) -> tuple[Numbers, Numbers]:
    """Run a model in evaluation mode over a split.

    Args:
        model: The classifier.
        encoded: The split's tokens.

    Returns:
        Logits float32 [articles, labels] and features float32 [articles, width], in the split's order.
    """
    with watch_features(model) as seen:
        logits = predict_logits(model, encoded)
    found = torch.cat(seen).float().cpu().numpy()
    features = np.empty_like(found)
    features[np.argsort(-encoded.lengths, kind="stable")] = found  # predict_logits takes the longest articles first
    return logits, features
