import numpy as np
import pytest

from newslora.config import TrainConfig
from newslora.data.batches import training_batches
from newslora.training.plan import StepPlan

LENGTHS = np.random.default_rng(0).integers(4, 40, 101)


def test_steps_group_batches_and_cover_every_row_once() -> None:
    steps = StepPlan(TrainConfig(batch_size=8, accumulation=3), LENGTHS, 1).steps(0)
    assert [len(step) for step in steps] == [3, 3, 3, 3, 1]
    assert sorted(np.concatenate([rows for step in steps for rows in step])) == list(range(101))


def test_more_processes_share_larger_batches() -> None:
    two = StepPlan(TrainConfig(batch_size=8, seed=5), LENGTHS, 2).steps(1)
    expected = training_batches(LENGTHS, batch_size=16, batch_tokens=None, seed=5, epoch=1)
    assert [step[0].tolist() for step in two] == [rows.tolist() for rows in expected]
    tokens = StepPlan(TrainConfig(batch_tokens=100), LENGTHS, 2).steps(0)
    assert max(LENGTHS[step[0]].sum() for step in tokens) > 100


@pytest.mark.parametrize("tokens", [None, 90])
def test_total_counts_every_epoch_as_it_will_be(tokens: int | None) -> None:
    plan = StepPlan(TrainConfig(epochs=4, batch_tokens=tokens), LENGTHS, 1)
    assert plan.total() == sum(len(plan.steps(epoch)) for epoch in range(4))
