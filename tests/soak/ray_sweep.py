"""SIGKILL of a worker of a sweep on Ray, or of the whole sweep, at a random moment: no finished trial is lost or done twice.

    python -m tests.soak.ray_sweep --trials 4

Each trial is ``newslora sweep --engine ray --workers 2`` over a grid of six settings. The kill comes a random time after a drawn
number of them are finished; three of four strike a worker, one the command itself with all that it started, which is then given
again. In the end every setting must be finished once, those of before the kill still under their numbers, with the figures of a sweep
on the local engine.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from tests.soak.ledger import open_ledger
from tests.soak.ray_workers import find_workers
from tests.soak.training import settings

SEARCH = {"lora.r": [1, 2, 4], "train.lr": [0.01, 0.003]}
COUNT = 6
LONGEST = 600.0


class Sweep:
    """The local engine's sweep, and trials held against it."""

    def __init__(self, place: Path) -> None:
        os.environ |= {"NEWSLORA_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
        self.place, self.file = place, place / "sweep.yaml"
        tree = settings(place, "plain").model_dump(mode="json") | {"search": SEARCH}
        tree["train"]["epochs"] = 8
        self.file.write_text(yaml.safe_dump(tree))
        subprocess.run([*self._words(place / "local")], check=True, stdout=subprocess.DEVNULL)
        self.figures = {key: figures(trial) for key, trial in finished(place / "local")}

    def trial(self, number: int, draw: random.Random) -> dict[str, Any]:
        output, whole = self.place / f"sweep{number}", number % 4 == 3
        status, before, after = self._go(output, draw.randint(0, COUNT - 1), draw.uniform(0, 2), draw, whole)
        again = [self._go(output, COUNT + 1, 0, draw, whole)[0]] if whole else []
        found = finished(output)
        kept = all((key, trial.number) in [(k, t.number) for k, t in found] for key, trial in before)
        alike = {key: figures(trial) for key, trial in found} == self.figures
        ok = after and kept and alike and len(found) == COUNT and [status, *again][-1] == 0
        interrupted = sum(trial.state == TrialState.FAIL and "key" in trial.user_attrs for trial in trials(output))
        what = (
            f"killed with {len(before)} finished, {interrupted} under way; left with {[status, *again]}; "
            f"{len(found)} finished, kept {kept}, figures alike {alike}"
        )
        if ok:
            shutil.rmtree(output)
        return {"ok": ok, "kind": "the whole" if whole else "a worker", "what": what}

    def _words(self, output: Path) -> list[str]:
        return [sys.executable, "-m", "newslora.cli.main", "sweep", str(self.file), "--output", str(output)]

    def _go(
        self, output: Path, most: int, delay: float, draw: random.Random, whole: bool
    ) -> tuple[int, list[tuple[str, FrozenTrial]], bool]:
        """Search, and kill on the way; return status, trials finished before the kill, and whether there was one."""
        with (self.place / "said").open("wb") as said:
            process = subprocess.Popen(
                [*self._words(output), "--engine", "ray", "--workers", "2"], stdout=said, stderr=subprocess.STDOUT
            )
        before, killed = list[tuple[str, FrozenTrial]](), False
        end = time.monotonic() + LONGEST
        while process.poll() is None and time.monotonic() < end:
            workers = find_workers(process.pid, "_Worker")
            under_way = any(trial.state == TrialState.RUNNING for trial in trials(output))
            if not killed and workers and under_way and len(finished(output)) >= most:
                time.sleep(delay)
                before = finished(output)
                victim = psutil.Process(process.pid) if whole else draw.choice(workers)
                victim.kill()
                killed = True
            time.sleep(0.05)
        process.kill()
        return process.wait(), before, killed


def trials(output: Path) -> list[FrozenTrial]:
    """Return the journal's trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not (output / "journal.log").exists():
        return []
    try:
        storage = JournalStorage(JournalFileBackend(str(output / "journal.log")))
        return optuna.load_study(study_name="newslora", storage=storage).get_trials(deepcopy=False)
    except KeyError:  # the journal is being begun
        return []


def finished(output: Path) -> list[tuple[str, FrozenTrial]]:
    """Return the finished trials with their settings' keys."""
    return [(trial.user_attrs["key"], trial) for trial in trials(output) if trial.state == TrialState.COMPLETE]


def figures(trial: FrozenTrial) -> tuple[float, ...]:
    """Return a trial's figures but for its time."""
    return tuple(trial.user_attrs[name] for name in ("accuracy", "macro_f1", "parameters", "n"))


def main() -> int:
    ledger, _ = open_ledger("ray_sweep", 20)
    with tempfile.TemporaryDirectory() as place:
        return ledger.run(Sweep(Path(place)).trial)


if __name__ == "__main__":
    sys.exit(main())
