"""SIGKILL of a worker of a training on Ray at a random moment: the run must end by itself with an uninterrupted run's bytes.

    python -m tests.soak.ray_training --trials 5

Each trial is ``newslora train --engine ray --workers 2``. Two of three kills come after a drawn step, one by the clock, counted
from when the first worker is there, most of them while the group is still starting. The uninterrupted run was made by Ray too; two
processes without Ray must have given the same.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from tests.soak.ledger import open_ledger
from tests.soak.ray_workers import find_workers
from tests.soak.training import outcome, pair, settings, start, wait

from newslora.config import change

EPOCHS = 8
WORKERS = 2
KIND = "RayTrainWorker"
LONGEST = 600.0


class Training:
    """The uninterrupted run, and trials held against it."""

    def __init__(self, place: Path) -> None:
        os.environ |= {"NEWSLORA_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
        torch.set_num_threads(1)  # as Ray's workers have it: another number rounds otherwise
        self.place, self.file = place, place / "settings.yaml"
        config = change(settings(place, "two"), {"train.epochs": EPOCHS}, "ray_training")
        self.file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        children = [start(config, place / "local", resume=False, environment=where) for where in pair()]
        assert wait(children) == [0, 0]
        self.whole = outcome(place / "local")
        self.steps = len((place / "local" / "steps.jsonl").read_text().splitlines())
        status, self.seconds, _ = self._go(place / "whole", None, None, random.Random())
        assert status == 0
        assert outcome(place / "whole") == self.whole

    def trial(self, number: int, draw: random.Random) -> dict[str, Any]:
        run, kind = self.place / f"run{number}", "by the clock" if number % 3 == 2 else "after a step"
        moment = draw.uniform(0, self.seconds / 2) if number % 3 == 2 else None
        step = None if number % 3 == 2 else draw.randint(1, self.steps)
        status, seconds, victim = self._go(run, moment, step, draw)
        late = moment is not None and victim is None
        ok = status == 0 and (victim is not None or late) and outcome(run) == self.whole
        wanted = f"{moment:.1f} s" if moment is not None else f"step {step} of {self.steps}"
        what = (
            f"wanted {wanted}; killed {'after its end' if late else victim}; left with {status} after {seconds:.0f} s"
        )
        if ok:
            shutil.rmtree(run)
        return {"ok": ok, "kind": kind, "what": what}

    def _go(
        self, run: Path, moment: float | None, step: int | None, draw: random.Random
    ) -> tuple[int, float, dict[str, Any] | None]:
        """Train, and kill a worker on the way; return status, seconds since the first worker was there, the victim."""
        words = [sys.executable, "-m", "newslora.cli.main", "train", str(self.file), "--output", str(run)]
        with (self.place / "said").open("wb") as said:
            process = subprocess.Popen(
                [*words, "--engine", "ray", "--workers", str(WORKERS)], stdout=said, stderr=subprocess.STDOUT
            )
        begun, victim = None, None
        end = time.monotonic() + LONGEST
        while process.poll() is None and time.monotonic() < end:
            if begun is None and find_workers(process.pid, KIND):
                begun = time.monotonic()
            late = moment is not None and begun is not None and time.monotonic() - begun >= moment
            if victim is None and (late or (step is not None and reached(run) >= step)):
                victim = _kill(find_workers(process.pid, KIND), run, draw)
            time.sleep(0.2 if begun is None else 0.01)
        process.kill()
        return process.wait(), time.monotonic() - (begun or time.monotonic()), victim


def _kill(workers: list[psutil.Process], run: Path, draw: random.Random) -> dict[str, Any] | None:
    if not workers:
        return None
    worker = draw.choice(workers)
    main = any(Path(file.path) == run / ".lock" for file in worker.open_files())
    worker.kill()
    return {"which": "main" if main else "other, or before the run was opened", "step": reached(run)}


def reached(run: Path) -> int:
    """Return the last step of the learning curve."""
    lines = (run / "steps.jsonl").read_text().split("\n")[:-1] if (run / "steps.jsonl").exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def main() -> int:
    ledger, _ = open_ledger("ray_training", 20)
    with tempfile.TemporaryDirectory() as place:
        return ledger.run(Training(Path(place)).trial)


if __name__ == "__main__":
    sys.exit(main())
