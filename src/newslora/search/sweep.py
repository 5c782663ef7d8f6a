"""A sweep: trial after trial on the same rows, chosen by validation figures alone."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newslora.config import RunConfig, change
from newslora.data.prepare import Prepared
from newslora.errors import Diverged, NewsloraError
from newslora.model.allocation import allocated
from newslora.model.backbone import load_config
from newslora.model.budget import Plan, Planner
from newslora.model.memory import keep_memory
from newslora.model.shorten import shorten_config
from newslora.search.records import write_records
from newslora.search.space import Space
from newslora.search.trials import QUALITY, Claim, Objective, Trials
from newslora.training.loop import fit
from newslora.training.progress import EpochDone, Event
from newslora.training.run_folder import RunFolder
from newslora.workflow import prepare_rows, start_model


@dataclass(frozen=True)
class TrialDone:
    """A trial has come to its end.

    Attributes:
        number: Optuna's number of it.
        values: Of the searched settings.
        result: ``accuracy``, ``macro_f1``, ``parameters``, ``seconds`` and ``n``, the validation rows; None where the
            trial was given up.
        best: Whether it is the best so far by the first objective.
    """

    number: int
    values: dict[str, Any]
    result: dict[str, float] | None
    best: bool


class _Pruned(Exception):
    pass


class Search:
    """A process's part in a sweep: it takes up trials that nobody has done or does, and does them.

    Args:
        space: What is searched; ``data.test`` is never read.
        output: Folder of the trials' run folders.
        trials: Trials of all processes together; every combination when None.
        objectives: What counts, the first of them ``accuracy`` or ``macro_f1`` on the validation rows.
        storage: Journal file that processes share; in ``output`` when not given.

    Attributes:
        board: The trials of all processes.

    Raises:
        NewsloraError: The settings or the data are at fault, or the storage holds another sweep.
    """

    def __init__(
        self,
        space: Space,
        output: Path,
        *,
        trials: int | None = None,
        objectives: tuple[Objective, ...] = ("accuracy",),
        storage: Path | None = None,
    ) -> None:
        keep_memory()
        if objectives[0] not in QUALITY:
            raise NewsloraError(f"--objectives: {objectives[0]} comes first; give accuracy or macro_f1 before it")
        self._rows, self._folder = _Rows(space.base), output / "trials"
        self.board = Trials(space, storage or output / "journal.log", objectives, trials, self._rows.plan)

    def next(self) -> TrialDone | None:
        """Do one more trial; None when there are enough, or no other one fits.

        Raises:
            NewsloraError: Its settings or the data are at fault.
        """
        claim = self.board.claim()
        if claim is None:
            return None
        result = _run(self.board, claim, self._rows, self._folder / claim.key)
        best = self.board.best()
        return TrialDone(
            claim.trial.number, claim.values, result, best is not None and best.number == claim.trial.number
        )


def sweep(
    space: Space,
    output: Path,
    *,
    trials: int | None = None,
    objectives: tuple[Objective, ...] = ("accuracy",),
    storage: Path | None = None,
    report: Callable[[TrialDone], None] = lambda _: None,
) -> Trials:
    """Try settings of a space until there are enough trials, and write what was found.

    Run again, or in several processes on one storage, it goes on where the others are; no settings are tried twice.

    Args:
        space: As for :class:`Search`, like the next four.
        output: Folder of the trials' run folders, the tables, the figures and ``best.yaml``.
        trials: How many.
        objectives: What counts.
        storage: Journal file.
        report: Called after each trial of this process.

    Raises:
        NewsloraError: The settings or the data are at fault, or the storage holds another sweep.
    """
    search = Search(space, output, trials=trials, objectives=objectives, storage=storage)
    while (done := search.next()) is not None:
        report(done)
        write_records(search.board, output)
    write_records(search.board, output, figures=True)
    return search.board


class _Rows:
    """The data of the trials, prepared anew only where their settings differ."""

    def __init__(self, base: RunConfig) -> None:
        self._known: str | None = None
        self._data: Prepared | None = None
        self.labels = len(self(base).names)
        self._planners: dict[str, Planner] = {}

    def __call__(self, config: RunConfig) -> Prepared:
        """Return the rows of a trial, without a test table."""
        config = change(config, {"data.test": None}, "sweep")
        key = f"{config.data} {config.model.backbone} {config.model.revision} {config.train.seed} {config.distill}"
        if self._data is None or key != self._known:
            self._data, self._known = prepare_rows(config), key
        return self._data

    def plan(self, config: RunConfig) -> Plan:
        """Return the counts of a trial's settings against their budget."""
        model = config.model
        key = f"{model.backbone} {model.revision} {model.layers}"
        if key not in self._planners:
            shape = shorten_config(deepcopy(load_config(model.backbone, model.revision)), model.layers)
            self._planners[key] = Planner(shape, self.labels, model.backbone)
        return self._planners[key].settings(config.lora, model.head)


def _run(board: Trials, claim: Claim, rows: _Rows, folder: Path) -> dict[str, float] | None:
    try:
        result = _train(board, claim, rows, folder)
    except (_Pruned, Diverged):
        result = None
    except NewsloraError as error:
        board.fail(claim, str(error))
        raise
    for name, value in (result or {}).items():
        claim.trial.set_user_attr(name, value)
    board.finish(claim, None if result is None else [result[name] for name in board.objectives])
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return result


def _train(board: Trials, claim: Claim, rows: _Rows, folder: Path) -> dict[str, float]:
    config = change(claim.config, {"data.test": None}, "sweep")
    data = rows(config)
    config = allocated(config, data)
    resume = (folder / "config.yaml").is_file()  # left by a process that died
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)  # by one that died before it had written its settings
    run = RunFolder.open(folder) if resume else RunFolder.create(folder, config)
    model = start_model(config, data)
    trainable = model.counts().trainable
    best = fit(config, data, model, run, _watch(board, claim, config.train.epochs), resume=resume).validation
    return {
        "accuracy": float(best["val_accuracy"]),
        "macro_f1": float(best["val_macro_f1"]),
        "parameters": trainable,
        "seconds": round(sum(float(row["seconds"]) for row in run.metrics()), 3),
        "n": len(data.validation.labels),
    }


def _watch(board: Trials, claim: Claim, epochs: int) -> Callable[[Event], None]:
    """Return what gives a trial up after an epoch in which it is behind the others' median; a grid is walked whole."""

    def watch(event: Event) -> None:
        if not isinstance(event, EpochDone) or len(board.objectives) > 1 or board.grid:
            return
        epoch = int(event.metrics["epoch"])
        claim.trial.report(float(event.metrics[f"val_{board.objectives[0]}"]), epoch)
        if epoch < epochs and claim.trial.should_prune():
            raise _Pruned

    return watch
