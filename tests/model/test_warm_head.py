"""The warm start is a real classifier, and nothing but the output layer changes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss
from tests.model.conftest import ragged_articles, random_model

from newslora.data.encoding import Encoded
from newslora.model import warm_head as module
from newslora.model.classifier import NewsModel, predict_logits
from newslora.model.features import watch_features
from newslora.model.temperature import probabilities
from newslora.model.warm_head import solve, warm_head


def clouds(classes: int, rows: int = 300, width: int = 6, spread: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    """Return features around one centre a class, and the labels."""
    generator = np.random.default_rng(classes)
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, rows - classes)])
    centres = generator.normal(size=(classes, width))
    return (centres[labels] + spread * generator.normal(size=(rows, width))).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_solution_ranks_the_classes_as_linear_discriminant_analysis_does(classes: int) -> None:
    features, labels = clouds(classes)
    weight, bias = solve(features, labels)
    assert weight.shape == (classes, features.shape[1])
    assert bias.shape == (classes,)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features, labels)
    logits = features @ weight.T + bias
    assert (logits.argmax(axis=1) == reference.predict(features)).all()
    assert (logits.argmax(axis=1) == labels).mean() > 1.2 / classes


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_functions_share_no_part_that_would_only_make_logits_large(classes: int) -> None:
    features, labels = clouds(classes)
    weight, bias = solve(features + 50, labels)
    np.testing.assert_allclose(weight.sum(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(bias.sum(), 0, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_scale_suits_rows_that_were_not_fitted(classes: int) -> None:
    features, labels = clouds(classes, rows=600, spread=2.0)
    weight, bias = solve(features[:300], labels[:300])
    logits = features[300:] @ weight.T + bias
    losses = {
        factor: log_loss(labels[300:], probabilities(factor * logits), labels=range(classes))
        for factor in (0.25, 1.0, 4.0)
    }
    assert losses[1.0] < min(losses[0.25], losses[4.0], np.log(classes))


def test_rare_labels_of_one_or_two_articles_are_no_obstacle() -> None:
    features, labels = clouds(3)
    for copies in (1, 2, 3):
        rare = np.concatenate([np.where(labels == 2, 0, labels)[: 300 - copies], [2] * copies])
        weight, bias = solve(features, rare)
        assert np.isfinite(weight).all()
        assert np.isfinite(bias).all()
        found = (features @ weight.T + bias).argmax(axis=1)
        assert (found == rare).mean() > 0.6


def articles(labels: list[int]) -> Encoded:
    """Articles of every length whose words tell their label."""
    plain = ragged_articles(np.random.default_rng(2).integers(4, 30, len(labels)).tolist())
    ids = plain.ids.copy()
    for row, label in enumerate(labels):
        ids[plain.offsets[row] + 1 : plain.offsets[row] + 4] = 10 + label
    return Encoded(ids, plain.offsets)


def fresh(backbone: Path) -> NewsModel:
    """A model whose LoRA changes nothing yet, as training starts it."""
    model = random_model(backbone)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    return model


LABELS = np.random.default_rng(3).integers(0, 3, 240).tolist()


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "mpnet"])
def test_the_model_classifies_unseen_articles_before_any_training(
    kind: str, tiny_backbone: Callable[[str], Path]
) -> None:
    model, encoded = fresh(tiny_backbone(kind)), articles(LABELS)
    train, test = np.arange(160), np.arange(160, 240)
    warm_head(model, encoded.take(train), LABELS[:160], seed=0)
    found = predict_logits(model, encoded.take(test)).argmax(axis=1)
    assert (found == np.array(LABELS)[test]).mean() > 0.5  # 1/3 by chance


def test_only_the_output_layer_changes_and_the_mode_is_put_back(tiny_backbone: Callable[[str], Path]) -> None:
    model = fresh(tiny_backbone("bert")).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    warm_head(model, articles(LABELS), LABELS, seed=0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {model.get_parameter(name).data_ptr() for name in changed} == {
        model.output_layer.weight.data_ptr(),
        model.output_layer.bias.data_ptr(),
    }
    assert model.training


def test_the_same_seed_gives_the_same_head_and_another_draws_other_rows(
    tiny_backbone: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 100)
    weights = []
    for seed in (0, 0, 1):
        model = fresh(tiny_backbone("bert"))
        warm_head(model, articles(LABELS), LABELS, seed=seed)
        weights.append(model.output_layer.weight.clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_features_and_labels_stay_paired_whatever_the_lengths(
    tiny_backbone: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoded, seen = fresh(tiny_backbone("roberta")), articles(LABELS), {}

    def record(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.update(features=features, labels=labels)
        return np.zeros((3, features.shape[1])), np.zeros(3)

    monkeypatch.setattr(module, "solve", record)
    warm_head(model, encoded, LABELS, seed=0)
    assert seen["labels"].tolist() == LABELS
    for row in (0, 7, 239):
        with watch_features(model) as alone:
            predict_logits(model, encoded.take(np.array([row])))
        np.testing.assert_allclose(seen["features"][row], alone[0][0].numpy(), rtol=1e-4, atol=1e-5)


def test_with_several_labels_each_is_told_from_its_absence(tiny_backbone: Callable[[str], Path]) -> None:
    kinds = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=np.float32)  # nobody carries the third label
    model, encoded = fresh(tiny_backbone("roberta")), articles(LABELS)
    third = model.output_layer.weight[2].clone()
    with watch_features(model) as seen:
        predict_logits(model, encoded)
    features = torch.cat(seen).numpy()[np.argsort(np.argsort(-encoded.lengths, kind="stable"))]
    warm_head(model, encoded, LABELS, seed=0, kinds=kinds)
    logits = predict_logits(model, encoded)
    for label in (0, 1):
        weight, bias = solve(features, kinds[LABELS][:, label].astype(np.int64))
        two = features @ weight.T + bias
        share = np.exp(two[:, 1]) / np.exp(two).sum(axis=1)
        assert 1 / (1 + np.exp(-logits[:, label])) == pytest.approx(share, abs=1e-4)
    assert torch.equal(model.output_layer.weight[2], third)
