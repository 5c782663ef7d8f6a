import numpy as np
import pytest
import torch
from tiny import make_split

from newslora.errors import Diverged, NewsloraError
from newslora.training.state import TrainingState
from newslora.training.stepping import StepResult
from newslora.training.tally import MOST_SKIPPED, Tally

SPLIT = make_split(9, 0, "news.csv")


def result(
    loss: float, correct: int = 1, stop: int = 0, due: int = 0, norm: float = 1.0, skipped: int = 0
) -> StepResult:
    return StepResult(SPLIT, np.array([7, 2]), 2.5, torch.tensor([loss, correct, stop, due, norm, skipped]))


def test_figures_are_added_step_by_step() -> None:
    results = [result(value) for value in (0.1, 0.7, 1e8, 0.3)]
    sums = []
    for cuts in ([4], [1, 1, 1, 1], [3, 1]):
        tally, state, left = Tally(), TrainingState(), list(results)
        for cut in cuts:
            for _ in range(cut):
                tally.push(left.pop(0))
            assert tally.fetch(state, "") == (False, False)
        sums.append((state.epoch_sums, state.line_sums))
    assert sums[0] == sums[1] == sums[2]
    assert (sums[0][0].mass, sums[0][0].correct, sums[0][0].articles) == (10.0, 4, 8)


def test_wishes_of_any_step_are_handed_on() -> None:
    tally = Tally()
    for step in (result(1.0, stop=1), result(1.0, due=1), result(1.0)):
        tally.push(step)
    assert tally.fetch(TrainingState(step=3), "") == (True, True)
    tally.push(result(1.0))
    assert tally.fetch(TrainingState(step=4), "") == (False, False)


@pytest.mark.parametrize(
    ("bad", "what"),
    [(result(float("nan")), "loss"), (result(float("inf")), "loss"), (result(1.0, norm=float("nan")), "gradient")],
)
def test_divergence_names_the_step_and_its_rows(bad: StepResult, what: str) -> None:
    tally = Tally()
    tally.push(result(1.0))
    tally.push(bad)
    tally.push(result(1.0))
    expected = rf"^step 11: the {what} is not finite \(news\.csv, rows 4, 9\); try less$"
    with pytest.raises(NewsloraError, match=expected):
        tally.fetch(TrainingState(step=12), "try less")


def test_a_loss_too_great_is_divergence_too() -> None:
    tally = Tally(greatest=4.0)
    tally.push(result(9.0))
    assert tally.fetch(TrainingState(step=1), "") == (False, False)
    tally.push(result(11.0))
    with pytest.raises(
        Diverged, match=r"^step 2: the loss is 4\.4, above train\.greatest_loss \(news\.csv, rows 4, 9\)"
    ):
        tally.fetch(TrainingState(step=2), "")


def test_a_step_left_out_is_told_of_and_not_added() -> None:
    tally, state = Tally(), TrainingState(step=3)
    for each in (result(1.0), result(float("nan"), skipped=1), result(2.0)):
        tally.push(each)
    tally.fetch(state, "")
    assert tally.skipped == [(2, "the loss is not finite (news.csv, rows 4, 9)")]
    assert (state.skipped, state.epoch_sums.loss, state.epoch_sums.articles) == (1, 3.0, 4)
    tally.push(result(1.0))
    tally.fetch(state, "")
    assert tally.skipped == []


def test_many_steps_left_out_in_a_row_end_the_run() -> None:
    tally, state = Tally(), TrainingState()
    for _ in range(MOST_SKIPPED - 1):
        tally.push(result(float("nan"), skipped=1))
    tally.push(result(1.0))
    state.step = MOST_SKIPPED
    tally.fetch(state, "")
    for _ in range(MOST_SKIPPED):
        tally.push(result(float("nan"), skipped=1))
    state.step = 2 * MOST_SKIPPED
    with pytest.raises(Diverged, match="the 20th such step in a row; try less"):
        tally.fetch(state, "try less")
