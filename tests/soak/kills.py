"""SIGKILL at random moments of a training run, then ``--resume``: the end must equal the uninterrupted run's, byte for byte.

Half of the moments are drawn from the clock, half are right before the so-manieth change on the disk: inside the writing of
a checkpoint, between two renames, in the prefix cache, in calibration, figures and card.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.soak.ledger import open_ledger
from tests.soak.training import count_changes, die_at_change, outcome, pair, settings, start, wait

from newslora.config import RunConfig
from newslora.training.checkpoints import find_checkpoint


class Kills:
    """The uninterrupted run, and trials held against it."""

    def __init__(self, place: Path, mode: str) -> None:
        self.place, self.mode = place, mode
        os.environ["NEWSLORA_CACHE"] = str(place / "cache")
        self.config: RunConfig = settings(place, mode)
        self._go(place / "first")  # fills the cache of encoded articles and warms what a first run warms
        begun = time.monotonic()
        self._go(place / "whole")
        self.seconds = time.monotonic() - begun
        self.whole = outcome(place / "whole")
        self.changes = 0
        if mode != "two":
            self.changes = count_changes(self.config, place / "counted", (place / "counted", place / "cache"))
            assert outcome(place / "counted") == self.whole

    def trial(self, number: int, draw: random.Random) -> dict[str, Any]:
        run = self.place / f"run{number}"
        if self.mode == "prefix":
            for file in (self.place / "cache").glob("prefix-*"):
                file.unlink()
        at_change = self.mode != "two" and number % 2 == 1
        victim = self._kill_at_change(run, draw) if at_change else self._kill_at_time(run, draw)
        kind = "at a change" if at_change else "by the clock"
        if victim is None:
            return {
                "ok": False,
                "kind": kind,
                "what": "a process was not killed, or one left alone did not end in time",
            }
        step = self._step(run)
        statuses = self._go(run, resume=True)
        ok = not any(statuses) and outcome(run) == self.whole
        what = f"killed {victim}, gone on from step {step}, left with {statuses}"
        shutil.rmtree(run if ok else self.place / "none", ignore_errors=True)
        return {"ok": ok, "kind": kind, "what": what, "step": step}

    def _kill_at_change(self, run: Path, draw: random.Random) -> str | None:
        change = draw.randrange(1, self.changes + 1)
        child = start(self.config, run, resume=False, before=die_at_change(change, (run, self.place / "cache")))
        [status] = wait([child])
        if status not in (0, -signal.SIGKILL):
            return None
        return f"at change {change} of {self.changes}" if status else "after its end"

    def _kill_at_time(self, run: Path, draw: random.Random) -> str | None:
        children = self._start(run, resume=False)
        delay, victim = draw.uniform(0.0, 1.05 * self.seconds), draw.randrange(len(children))
        time.sleep(delay)
        try:
            os.kill(children[victim], signal.SIGKILL)
        except ProcessLookupError:
            return "after its end"
        # The other process must notice by itself.
        begun = time.monotonic()
        statuses = wait(children, 60.0)
        others = [status for index, status in enumerate(statuses) if index != victim]
        noticed = f", the other left with {others[0]} after {time.monotonic() - begun:.1f} s" if others else ""
        return None if -signal.SIGKILL in others else f"after {delay:.2f} s{noticed}"

    def _step(self, run: Path) -> int:
        found = find_checkpoint(run / "checkpoints")
        return 0 if found is None else int(found.files["state.json"].split(b'"step":')[1].split(b",")[0])

    def _start(self, run: Path, *, resume: bool) -> list[int]:
        places = pair() if self.mode == "two" else [{}]
        return [start(self.config, run, resume=resume, environment=place) for place in places]

    def _go(self, run: Path, *, resume: bool = False) -> list[int]:
        return wait(self._start(run, resume=resume))


def main() -> int:
    ledger, mode = open_ledger("kills", 100, ("plain", "prefix", "two"))
    with tempfile.TemporaryDirectory() as place:
        return ledger.run(Kills(Path(place), mode).trial)


if __name__ == "__main__":
    sys.exit(main())
