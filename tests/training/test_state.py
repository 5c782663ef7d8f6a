import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import make_config, make_data

from newslora.config import RunConfig
from newslora.training.state import Document, Generators, Identity, Sums, TrainingState, digest

CPU = torch.device("cpu")


def draw() -> list[float]:
    return [random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()]


def test_generators_go_on_where_they_were() -> None:
    draw()
    kept = Generators.capture(CPU)
    expected = draw()
    draw()
    Generators.model_validate_json(kept.model_dump_json()).restore(CPU)
    assert draw() == expected


def row(epoch: int, f1: float, loss: float) -> dict[str, int | float]:
    return {"epoch": epoch, "val_macro_f1": f1, "val_loss": loss}


def test_best_by_macro_f1_keeps_the_earlier_of_equals() -> None:
    state = TrainingState()
    assert [state.judge(row(e, f1, 1 / e), "macro_f1") for e, f1 in enumerate([0.5, 0.5, 0.7, 0.6], 1)] == [
        True, False, True, False,
    ]  # fmt: skip
    assert state.best == row(3, 0.7, 1 / 3)
    assert state.stale == 1
    assert len(state.metrics) == 4


def test_best_by_loss_wants_the_least() -> None:
    state = TrainingState()
    assert [state.judge(row(e, e, loss), "loss") for e, loss in enumerate([0.5, 0.6, 0.4, 0.4], 1)] == [
        True, False, True, False,
    ]  # fmt: skip
    assert state.best == row(3, 3, 0.4)


def test_sums() -> None:
    sums = Sums()
    assert sums.mean_loss == 0.0
    sums.add(loss=3.0, mass=2.0, correct=1, articles=4)
    sums.add(loss=1.0, mass=6.0, correct=3, articles=4)
    assert (sums.mean_loss, sums.correct, sums.articles) == (0.5, 4, 8)


def test_the_document_keeps_every_digit_and_type() -> None:
    state = TrainingState(step=7, lr=0.1 + 0.2, best={"epoch": 1, "val_loss": 1 / 3, "lr": 1.0})
    state.epoch_sums.add(1 / 7, 1e-300, 3, 4)
    identity = Identity.of(make_config(), make_data(), 1)
    document = Document(identity=identity, state=state, generators=[Generators.capture(CPU)], scaler=None)
    again = Document.model_validate_json(document.model_dump_json())
    assert again == document
    assert again.state.best is not None
    assert [type(value) for value in again.state.best.values()] == [int, float, float]


def test_two_states_share_nothing() -> None:
    TrainingState().metrics.append({"epoch": 1})
    TrainingState().epoch_sums.add(1.0, 1.0, 1, 1)
    assert TrainingState().metrics == []
    assert TrainingState().epoch_sums.loss == 0.0


DATA = make_data()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": {"lr": 0.5}}, "train.lr is 0.5 but was 0.001"),
        ({"lora": {"targets": "key"}}, r"lora.targets is ['key'] but was ['query', 'value']"),
        ({"train": {"epochs": 2}}, "train.epochs is 2 but was 3"),
        ({"train": {"epochs": 4, "trackers": "wandb"}, "data": {"test": "other.csv"}}, None),
        (
            {"train": {"checkpoint_minutes": 1, "checkpoint_steps": 5, "on_divergence": "skip", "greatest_loss": 9}},
            None,
        ),
    ],
)
def test_settings_that_would_change_the_result_are_named(changes: dict[str, dict[str, object]], expected: str) -> None:
    now = Identity.of(RunConfig.from_dict(changes), DATA, 1)
    assert now.difference(Identity.of(RunConfig(), DATA, 1)) == expected


def test_a_setting_newer_than_the_checkpoint_counts_as_its_default() -> None:
    now = Identity.of(RunConfig(), DATA, 1)
    settings = {name: value for name, value in now.settings.items() if name != "model.quantization"}
    earlier = now.model_copy(update={"settings": settings})
    assert now.difference(earlier) is None
    other = Identity.of(RunConfig.from_dict({"model": {"quantization": "nf4"}}), DATA, 1)
    assert other.difference(earlier) == "model.quantization is nf4 but was none"


def test_other_rows_and_other_processes_are_named() -> None:
    earlier = Identity.of(RunConfig(), DATA, 1)
    assert Identity.of(RunConfig(), DATA, 2).difference(earlier) == "2 processes train but 1 did"
    other = Identity.of(RunConfig(), make_data(rows=69), 1)
    assert other.difference(earlier) == "the training or validation rows have changed"
    backbone = Identity.of(RunConfig(), DATA, 1, "00ff")
    assert backbone.difference(earlier) == "the backbone's weights have changed"


def test_the_digest_sees_labels_tokens_names_and_validation() -> None:
    train = DATA.train
    ids = train.encoded.ids.copy()
    ids[5] += 1
    changed = [
        replace(DATA, names=DATA.names[::-1]),
        replace(DATA, train=replace(train, labels=[*train.labels[:-1], (train.labels[-1] + 1) % 3])),
        replace(DATA, train=replace(train, encoded=replace(train.encoded, ids=ids))),
        replace(DATA, validation=make_data(rows=70, seed=9).validation),
    ]
    assert len({digest(data) for data in [DATA, *changed]}) == 5
    assert digest(make_data()) == digest(DATA)
