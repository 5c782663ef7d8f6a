"""Features: what a classifier's output layer sees of each article."""

import numpy as np
import numpy.typing as npt
import torch

from newslora.data.encoding import Encoded
from newslora.model.classifier import NewsModel, predict_logits

Numbers = npt.NDArray[np.float32]


def logits_and_features(model: NewsModel, encoded: Encoded) -> tuple[Numbers, Numbers]:
    """Run a model in evaluation mode over a split.

    Args:
        model: The classifier.
        encoded: The split's tokens.

    Returns:
        Logits float32 [articles, labels] and features float32 [articles, width], in the split's order.
    """
    with model.features() as seen:
        logits = predict_logits(model, encoded)
    found = torch.cat(seen).float().cpu().numpy()
    features = np.empty_like(found)
    features[np.argsort(-encoded.lengths, kind="stable")] = found  # predict_logits takes the longest articles first
    return logits, features
