"""What all soak scripts share: trials that are counted, kept, and gone on with."""

import argparse
import json
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path("build/soak")


@dataclass
class Ledger:
    """The trials of one script in one mode, a JSON object a line; every trial's draw depends on its number alone."""

    name: str
    trials: int
    minutes: float
    file: Path
    done: dict[int, dict[str, Any]] = field(default_factory=dict)

    def run(self, trial: Callable[[int, random.Random], dict[str, Any]]) -> int:
        """Run what is left of the trials; ``trial`` returns at least ``ok`` and ``what``."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.done = {row["trial"]: row for row in map(json.loads, lines)}
        end = time.monotonic() + 60 * self.minutes
        for number in range(self.trials):
            if number not in self.done and time.monotonic() < end:
                self._run_one(number, trial)
        return self._tell()

    def _run_one(self, number: int, trial: Callable[[int, random.Random], dict[str, Any]]) -> None:
        start = time.monotonic()
        row = {"trial": number, **trial(number, random.Random(f"{self.name} {number}"))}
        row |= {"seconds": round(time.monotonic() - start, 3), "machine": platform.machine()}
        self.done[number] = row
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if not row["ok"]:
            print(f"{self.name} {number}: {row['what']}", file=sys.stderr, flush=True)

    def _tell(self) -> int:
        rows = [row for number, row in self.done.items() if number < self.trials]
        failed = [row["trial"] for row in rows if not row["ok"]]
        kinds = Counter(row["kind"] for row in rows)
        print(f"{self.name}: {len(rows)} of {self.trials} trials, {len(failed)} failed {failed[:9]}; {dict(kinds)}")
        return 1 if failed or len(rows) < self.trials else 0


def open_ledger(name: str, trials: int, modes: tuple[str, ...] = ()) -> tuple[Ledger, str]:
    """Read a script's command line."""
    parser = argparse.ArgumentParser(prog=f"tests.soak.{name}")
    parser.add_argument("--trials", type=int, default=trials)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    if modes:
        parser.add_argument("--mode", choices=modes, default=modes[0])
    options = parser.parse_args()
    mode = getattr(options, "mode", "")
    full = f"{name}-{mode}" if mode else name
    return Ledger(full, options.trials, options.minutes, options.results / f"{full}.jsonl"), mode
