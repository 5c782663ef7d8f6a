"""Features: those that the output layer reads, in the order of the rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.model.conftest import ragged_articles, ragged_batch, random_model

from newslora.model.classifier import predict_logits
from newslora.model.families import FAMILIES
from newslora.model.features import logits_and_features, watch_features

LENGTHS = [3, 128, 1, 40, 40, 7, 90, 2, 33, 128, 5]


@pytest.mark.parametrize("kind", FAMILIES)
def test_features_are_what_the_output_layer_reads(kind: str, tiny_backbone: Callable[[str], Path]) -> None:
    model = random_model(tiny_backbone(kind))
    batch = ragged_batch(LENGTHS)
    with watch_features(model) as seen:
        first, second = model(batch), model(batch)
    assert len(seen) == 2
    torch.testing.assert_close(model.output_layer(seen[0]), first)
    assert torch.equal(first, second)
    assert not seen[0].requires_grad
    model(batch)
    assert len(seen) == 2  # nothing is collected after the block


def test_gradients_go_through_features_when_asked_for(tiny_backbone: Callable[[str], Path]) -> None:
    model = random_model(tiny_backbone("roberta"), model={"head": "linear"})
    with watch_features(model, gradients=True) as seen:
        model(ragged_batch(LENGTHS))
    seen[0].square().sum().backward()
    inside = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert inside
    assert all(grad is not None and grad.abs().max() > 0 for grad in inside)
    assert model.output_layer.weight.grad is None  # it comes after them


def test_features_come_in_row_order(tiny_backbone: Callable[[str], Path]) -> None:
    model, encoded = random_model(tiny_backbone("roberta")), ragged_articles(LENGTHS * 20)
    logits, features = logits_and_features(model, encoded)
    assert np.array_equal(logits, predict_logits(model, encoded))
    with torch.no_grad():
        again = model.output_layer(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(again, logits, rtol=1e-4, atol=1e-5)
