"""Trials that several processes share: none twice, none over the budget, the dead ones' done again."""

import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.model.budget import Plan
from newslora.search.space import Space
from newslora.search.trials import Claim, Objective, Trials, key_of

MakeSpace = Any
GRID = {"lora.r": [2, 4, 8, 16], "lora.alpha/r": [1, 2]}


def plan(config: RunConfig) -> Plan:
    """Hundred parameters a rank."""
    total, budget = 100 * config.lora.r, config.lora.budget
    return Plan(config.lora.targets, "linear", config.lora.r, total, 0, total, total / budget, total <= budget)


def board(
    space: Space, folder: Path, most: int | None = None, objectives: tuple[Objective, ...] = ("accuracy",)
) -> Trials:
    return Trials(space, folder / "journal.log", objectives, most, plan)


def finish(trials: Trials, claim: Claim, value: float | None = None) -> None:
    value = 1 / claim.config.lora.r if value is None else value
    trials.finish(claim, [value, *(1.0 for _ in trials.objectives[1:])])


def walk(trials: Trials) -> list[Claim]:
    claims = []
    while (claim := trials.claim()) is not None:
        claims.append(claim)
        finish(trials, claim)
    return claims


def ranks(claims: Sequence[Claim]) -> list[int]:
    return [claim.config.lora.r for claim in claims]


def test_a_grid_is_walked_whole_and_once(make_space: MakeSpace, tmp_path: Path) -> None:
    trials = board(make_space(GRID), tmp_path)
    claims = walk(trials)
    assert ranks(claims) == [2, 2, 4, 4, 8, 8, 16, 16]
    assert len({claim.key for claim in claims}) == 8
    assert walk(board(make_space(GRID), tmp_path)) == []
    best = trials.best()
    assert best is not None
    assert best.params == {"lora.r": 2, "lora.alpha/r": 1}


def test_what_does_not_fit_is_never_tried(make_space: MakeSpace, tmp_path: Path) -> None:
    space = make_space(GRID, lora={"budget": 800})
    assert ranks(walk(board(space, tmp_path))) == [2, 2, 4, 4, 8, 8]
    sampled = walk(board(make_space({"lora.r": {"low": 1, "high": 64}}, lora={"budget": 800}), tmp_path / "b", 8))
    assert sorted(ranks(sampled)) == list(range(1, 9))  # all that fit, each once, though most proposals do not


def test_a_used_up_space_ends_early(make_space: MakeSpace, tmp_path: Path) -> None:
    assert len(walk(board(make_space({"lora.r": [2, 4, 8]}), tmp_path, most=40))) == 3


def test_equal_settings_under_other_names_are_one_trial(make_space: MakeSpace, tmp_path: Path) -> None:
    space = make_space({"lora.targets": [["query", "value"], "query,value"], "lora.r": [4]})
    assert len(walk(board(space, tmp_path))) == 1


def test_samplers_draw_and_count(make_space: MakeSpace, tmp_path: Path) -> None:
    space = make_space({"train.lr": {"low": 1e-5, "high": 1e-1, "log": True}, "lora.r": [2, 4, 8]})
    claims = walk(board(space, tmp_path, most=15))
    assert len({claim.key for claim in claims}) == 15
    assert len(walk(board(space, tmp_path, most=18))) == 3  # more may be asked for later


def test_an_endless_space_needs_a_number(make_space: MakeSpace, tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="--trials: the space has a range"):
        board(make_space({"train.lr": {"low": 1e-5, "high": 1e-1}}), tmp_path)


def test_another_space_or_objective_is_refused(make_space: MakeSpace, tmp_path: Path) -> None:
    board(make_space(GRID), tmp_path)
    for space, objectives in ((make_space({"lora.r": [2]}), ("accuracy",)), (make_space(GRID), ("macro_f1",))):
        with pytest.raises(NewsloraError, match="holds a sweep of other settings"):
            board(space, tmp_path, objectives=objectives)
    board(make_space(GRID, data={"test": None}), tmp_path)  # never read, so free


def test_pruned_trials_count_and_failed_ones_do_not(make_space: MakeSpace, tmp_path: Path) -> None:
    trials = board(make_space({"lora.r": [2, 4]}), tmp_path)
    first = trials.claim()
    assert first is not None
    trials.finish(first, None)
    second = trials.claim()
    assert second is not None
    trials.fail(second, "the disk is full")
    [third] = walk(trials)
    assert third.key == second.key
    assert [trial.state for trial in trials.taken()] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert [trial.number for trial in trials.done()] == [third.trial.number]


def test_what_a_dead_process_left_is_done_again(make_space: MakeSpace, tmp_path: Path) -> None:
    space = make_space({"lora.r": [2, 4]})
    trials = board(space, tmp_path)
    dead = trials.claim()
    assert dead is not None
    other = board(space, tmp_path)
    alive = other.claim()  # the first one is still held: this must be another
    assert alive is not None
    assert alive.key != dead.key
    assert other.claim() is None
    dead.lock.close()  # as the system does when a process ends
    again = other.claim()
    assert again is not None
    assert (again.key, again.config) == (dead.key, dead.config)
    alive.lock.close()
    again.lock.close()


def test_several_objectives(make_space: MakeSpace, tmp_path: Path) -> None:
    trials = board(make_space({"lora.r": [2, 4]}), tmp_path, objectives=("macro_f1", "parameters"))
    walk(trials)
    assert [trial.values for trial in trials.done()] == [[0.5, 1.0], [0.25, 1.0]]


def test_keys_tell_settings_apart() -> None:
    plain, other = RunConfig(), RunConfig.from_dict({"lora": {"r": 9}})
    assert key_of(plain) == key_of(RunConfig.from_dict({})) != key_of(other)


def _work(space: Space, folder: Path, results: Any) -> None:
    results.put([claim.key for claim in walk(board(space, folder, most=24))])


@pytest.mark.slow
def test_four_processes_do_no_trial_twice(make_space: MakeSpace, tmp_path: Path) -> None:
    space = make_space({"lora.r": {"low": 1, "high": 30}})
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_work, args=(space, tmp_path, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    keys = [key for _ in workers for key in results.get(timeout=120)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(keys) == len(set(keys)) == 24
