"""A sweep on Ray: the local engine's search, each worker taking up trials from the journal that all share."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from newslora.errors import NewsloraError
from newslora.scale.cluster import cluster, gpu_share
from newslora.search.records import write_records
from newslora.search.space import Space
from newslora.search.sweep import Search, TrialDone
from newslora.search.trials import Objective, Trials

LOSSES: Final = 9
"""Times that Ray starts a worker's trial again before the sweep counts as one that kills its workers."""


def sweep_on_ray(
    space: Space,
    output: Path,
    *,
    trials: int | None = None,
    objectives: tuple[Objective, ...] = ("accuracy",),
    storage: Path | None = None,
    workers: int | None = None,
    report: Callable[[TrialDone], None] = lambda _: None,
) -> Trials:
    """Search as :func:`newslora.search.sweep.sweep` does, a trial at a time on each worker.

    A worker that is lost is started anew. The trial that it had counts as failed and is done again from its last
    checkpoint, by whichever worker is free; finished ones stand in the journal.

    Args:
        space: As for :class:`newslora.search.sweep.Search`, like the next four.
        output: A folder on a disk that all machines share, with locks (``flock``).
        trials: How many.
        objectives: What counts.
        storage: Journal file.
        workers: Workers, each on one core (and a share of the cluster's GPUs); all cores when None.
        report: Called after each trial.

    Raises:
        NewsloraError: As for the local engine; or one worker's trials were lost again and again.
    """
    own: dict[str, Any] = {"trials": trials, "objectives": objectives, "storage": storage}
    board = Search(space, output, **own).board  # here first: a user's faults are told before Ray is started
    with cluster(workers) as found:
        _work_off(board, (space, output, own), output, found, report)
    write_records(board, output, figures=True)
    return board


class _Worker:
    """Does trials; made again by Ray when its process is lost."""

    def __init__(self, folder: str, space: Space, output: Path, own: dict[str, Any]) -> None:
        os.chdir(folder)  # paths in the settings may be relative to where the command was given
        self._make = partial(Search, space, output, **own)
        self._search: Search | None = None

    def next(self) -> tuple[TrialDone | None, str | None]:
        """Do one more trial; return what came of it, and the fault that ends the sweep."""
        try:
            self._search = self._search or self._make()
            return self._search.next(), None
        except NewsloraError as error:
            return None, str(error)


def _work_off(
    board: Trials,
    task: tuple[Space, Path, dict[str, Any]],
    output: Path,
    workers: int,
    report: Callable[[TrialDone], None],
) -> None:
    import ray

    # One worker's call does a trial, whichever that is: made again, it asks the journal what is left to do.
    again = {"max_restarts": -1, "max_task_retries": LOSSES}
    kind: Any = ray.remote(num_cpus=1, num_gpus=gpu_share(workers), **again)(_Worker)
    crew = [kind.remote(str(Path.cwd()), *task) for _ in range(min(workers, board.most - board.finished()))]
    busy = {worker.next.remote(): worker for worker in crew}
    del crew  # a worker that nobody holds ends, and leaves its core to one that has to start again
    while busy:
        [ready], _ = ray.wait(list(busy))
        worker = busy.pop(ready)
        done = _answer(ready)
        if done is not None:
            report(done)
            write_records(board, output)
            busy[worker.next.remote()] = worker


def _answer(call: Any) -> TrialDone | None:  # noqa: ANN401 - Ray has no type for it
    import ray

    try:
        done, fault = ray.get(call)
    except ray.exceptions.RayActorError as error:
        raise NewsloraError(
            f"a worker of the sweep was lost {LOSSES + 1} times in a row; look for what ends it (memory?), or give "
            "fewer --workers; the same command goes on"
        ) from error
    if fault is not None:
        raise NewsloraError(fault)
    found: TrialDone | None = done
    return found
