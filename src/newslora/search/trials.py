"""The trials that several processes share: who does which, none twice, none over the budget.

Optuna proposes and keeps the records in a journal file. Under one lock beside the journal a process asks for a trial,
looks whether it is new and fits the budget, and signs for it; while it works it holds a lock of the trial's own, so
that a trial whose process has died is known by its open lock and is done again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.model.budget import Plan
from newslora.search.locks import locked, try_lock
from newslora.search.space import Space

Objective = Literal["accuracy", "macro_f1", "parameters", "seconds"]
QUALITY: tuple[Objective, ...] = ("accuracy", "macro_f1")
_TAKEN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
_GUIDED, _TRIES = 20, 200  # proposals of the sampler, then at random, before a space counts as used up


@dataclass(frozen=True)
class Claim:
    """A trial that this process has signed for.

    Attributes:
        trial: Optuna's handle.
        values: Of the searched settings, by dotted name.
        config: The settings.
        key: Names the settings; equal settings have equal keys.
        lock: Held while the trial is under way.
    """

    trial: optuna.Trial
    values: dict[str, Any]
    config: RunConfig
    key: str
    lock: IO[bytes]


class Trials:
    """A sweep's trials in a journal file.

    Args:
        space: What is searched.
        journal: The journal file, made if missing.
        objectives: What counts; the first must be ``accuracy`` or ``macro_f1``.
        most: Trials wanted, those of all processes together; every combination of the space when None.
        plan: Counts the trainable parameters of settings.

    Raises:
        NewsloraError: The journal holds another sweep, or every combination is wanted of a space that has no end.
    """

    def __init__(
        self,
        space: Space,
        journal: Path,
        objectives: tuple[Objective, ...],
        most: int | None,
        plan: Callable[[RunConfig], Plan],
    ) -> None:
        self.space, self.objectives, self.plan, self.journal = space, objectives, plan, journal
        self.grid = space.grid() if most is None else []
        if most is None and not self.grid:
            raise NewsloraError("--trials: the space has a range and so no end; give the number of trials")
        self.most = len(self.grid) if most is None else most
        with self._locked():
            self.study = _open(journal, objectives, space)
            self.seed = space.base.train.seed + 1000 * len(self.study.trials)
            self.study.sampler = _sampler(self.seed)

    def claim(self) -> Claim | None:
        """Sign for a trial that nobody has done or does; None when there are enough, or no other one fits."""
        with self._locked():
            self._bury()
            return self._propose() if len(self.taken()) < self.most else None

    def finish(self, claim: Claim, values: list[float] | None) -> None:
        """Enter a trial's objectives, or None where it was given up as a poor one."""
        state = TrialState.PRUNED if values is None else TrialState.COMPLETE
        with self._locked():
            self.study.tell(claim.trial, values, state=state)
        claim.lock.close()

    def fail(self, claim: Claim, reason: str) -> None:
        """Enter that a trial could not be done; it does not count, and may be tried again."""
        with self._locked():
            claim.trial.set_user_attr("reason", reason)
            self.study.tell(claim.trial, state=TrialState.FAIL)
        claim.lock.close()

    def taken(self) -> list[FrozenTrial]:
        """Return the trials that are done, given up, or under way."""
        return [trial for trial in self.study.get_trials(states=_TAKEN) if "key" in trial.user_attrs]

    def done(self) -> list[FrozenTrial]:
        """Return the trials that ran to their end, in order."""
        return [trial for trial in self.taken() if trial.state == TrialState.COMPLETE]

    def finished(self) -> int:
        """Return the number of trials that are done or given up."""
        return sum(trial.state != TrialState.RUNNING for trial in self.taken())

    def best(self) -> FrozenTrial | None:
        """Return the trial with the best first objective; of equal ones the one with the fewest parameters."""
        found = [trial for trial in self.done() if trial.values]
        return max(found, key=lambda trial: (trial.values[0], -trial.user_attrs["parameters"]), default=None)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.journal.with_name(f"{self.journal.name}.claims")):
            yield

    def _own_lock(self, number: int) -> Path:
        return self.journal.with_name(f"{self.journal.name}.running") / str(number)

    def _bury(self) -> None:
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            lock = try_lock(self._own_lock(trial.number))
            if lock is None:
                continue
            lock.close()
            self.study.tell(trial.number, state=TrialState.FAIL)
            if "key" in trial.user_attrs:  # without one its process died before it had signed
                self.study.enqueue_trial(trial.params)

    def _propose(self) -> Claim | None:
        taken = {trial.user_attrs["key"] for trial in self.taken()}
        try:
            for attempt in range(_TRIES):
                if self.grid and not self._enqueue(taken):
                    return None
                if attempt == _GUIDED:
                    self.study.sampler = optuna.samplers.RandomSampler(self.seed)
                claim = self._sign(taken)
                if claim is not None:
                    return claim
            return None
        finally:
            if not isinstance(self.study.sampler, optuna.samplers.TPESampler):
                self.study.sampler = _sampler(self.seed + len(self.study.trials))

    def _enqueue(self, taken: set[str]) -> bool:
        if self.study.get_trials(states=(TrialState.WAITING,)):
            return True
        for values in self.grid:
            config = self.space.config(values)
            if key_of(config) not in taken and self.plan(config).fits:
                self.study.enqueue_trial(values)
                return True
        return False

    def _sign(self, taken: set[str]) -> Claim | None:
        trial = self.study.ask()
        values = self.space.suggest(trial)
        config = self.space.config(values)
        key, plan = key_of(config), self.plan(config)
        if key in taken:
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        trial.set_user_attr("parameters", plan.trainable)
        trial.set_constraint("budget", plan.share - 1)  # above 0: not feasible, and the sampler learns where
        if not plan.fits:
            self.study.tell(trial, state=TrialState.PRUNED)
            return None
        lock = try_lock(self._own_lock(trial.number))
        if lock is None:
            raise NewsloraError(f"{self._own_lock(trial.number)}: is held by another process; end it first")
        trial.set_user_attr("key", key)
        return Claim(trial, values, config, key, lock)


def key_of(config: RunConfig) -> str:
    """Return what names settings: equal ones have equal keys."""
    return hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:12]


def _open(journal: Path, objectives: tuple[Objective, ...], space: Space) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A few trials are let run to their end, or there is nothing to compare with.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5) if len(objectives) == 1 else optuna.pruners.NopPruner()
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name="newslora",
        directions=["maximize" if name in QUALITY else "minimize" for name in objectives],
        pruner=pruner,
        load_if_exists=True,
    )
    description = json.dumps(space.describe() | {"objectives": objectives}, sort_keys=True)
    if study.user_attrs.setdefault("space", description) != description:
        raise NewsloraError(f"{journal}: holds a sweep of other settings; choose another --output or --storage")
    study.set_user_attr("space", description)
    return study


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True)
