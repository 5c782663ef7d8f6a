"""Rows classified on Ray while its workers are killed: every row once, the local engine's answers, and what it costs.

    python -m tests.soak.ray_predict --output ray_predict.json
    python -m tests.soak.ray_predict --run RUN --data TEST.csv --rows 200000 --kills 5 --workers 2

The rows of a table are repeated, each with its own id. 1. The local engine classifies them on as many threads as there are
workers. 2. ``--engine ray`` does, left alone. 3. It does again, while workers are killed by SIGKILL, each at a random share
of the parts. Both outputs must hold the ids once each, in order, with the local engine's labels and its probabilities
within 1e-6. ``overhead`` is time against the local engine's, minus one. Without ``--run`` a small random one is made.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psutil
from tests.soak.predict_million import command, small_export, write_rows
from tests.soak.ray_workers import find_workers, title

from newslora.inference.bulk import BLOCK

MOST = 1e-6


def run_local(run: Path, source: Path, output: Path, threads: int) -> float:
    """Return the seconds of the local engine."""
    begun = time.perf_counter()
    subprocess.run(command(run, source, output), check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    return time.perf_counter() - begun


class Killing:
    """``--engine ray`` in a process of its own, and what kills its workers."""

    def __init__(self, words: list[str], output: Path, rows: int, kills: int, draw: random.Random) -> None:
        self.parts = output.with_name(f".{output.name}.parts")
        most = max(1, rows // BLOCK - 1)
        self.moments = sorted(draw.randint(0, most) for _ in range(kills))
        self.words, self.draw = words, draw
        self.killed: list[dict[str, Any]] = []

    def go(self) -> float:
        """Return the seconds until all is done.

        Raises:
            SystemExit: The work failed.
        """
        begun = time.perf_counter()
        process = subprocess.Popen(self.words, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while process.poll() is None:
            done = len(list(self.parts.glob("part-*"))) if self.parts.exists() else 0
            if self.moments and done >= self.moments[0]:
                self._kill(psutil.Process(process.pid), done, begun)
            time.sleep(0.02)
        if process.returncode:
            sys.exit(f"--engine ray left with {process.returncode} after {len(self.killed)} kills")
        return time.perf_counter() - begun

    def _kill(self, driver: psutil.Process, done: int, begun: float) -> None:
        time.sleep(self.draw.uniform(0, 0.5))
        workers = find_workers(driver.pid, "Map")
        if not workers:
            return
        victim = self.draw.choice(workers)
        at = {"seconds": round(time.perf_counter() - begun, 1), "parts": done, "victim": title(victim)}
        victim.kill()
        self.moments.pop(0)
        self.killed.append(at)
        print(f"kill {len(self.killed)}: {at}", flush=True)


def compare(local: Path, other: Path) -> dict[str, Any]:
    """Return whether two outputs answer the same rows alike, and by how much their probabilities differ."""
    rows, labels, most = 0, 0, 0.0
    with local.open(newline="", encoding="utf-8") as left, other.open(newline="", encoding="utf-8") as right:
        for a, b in zip_longest(csv.DictReader(left), csv.DictReader(right)):
            if a is None or b is None or not a["id"] == b["id"] == str(rows):
                return {"ok": False, "what": f"row {rows}: {a and a['id']} and {b and b['id']}"}
            rows, labels = rows + 1, labels + (a["label"] == b["label"])
            names = [name for name in a if name == "score" or name.startswith("p_")]
            most = max(most, *(abs(float(a[name]) - float(b[name])) for name in names))
    return {"ok": labels == rows and most <= MOST, "rows": rows, "labels_equal": labels, "largest_difference": most}


def main() -> None:
    """Measure, print and write the figures; leave with status 1 where a row is lost, doubled or answered otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="run folder or export (default: a small one is made)")
    parser.add_argument("--data", default="sample", help="table whose rows are repeated (default: the packaged sample)")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args()
    figures: dict[str, Any] = {"options": vars(options)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, source = Path(options.run) if options.run else small_export(folder), folder / "rows.csv"
        write_rows(source, options.data, options.rows)
        figures["local_seconds"] = run_local(run, source, folder / "local.csv", options.workers)
        print(f"local: {figures['local_seconds']:.1f} s", flush=True)
        for case, kills in (("alone", 0), ("killed", options.kills)):
            output = folder / f"{case}.csv"
            words = [*command(run, source, output), "--engine", "ray", "--workers", str(options.workers)]
            killing = Killing(words, output, options.rows, kills, random.Random(options.seed))
            seconds = killing.go()
            overhead = seconds / figures["local_seconds"] - 1
            compared = compare(folder / "local.csv", output)
            figures[case] = {"seconds": seconds, "overhead": overhead, "kills": killing.killed, **compared}
            print(case, json.dumps(figures[case]), flush=True)
        figures["left_over"] = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    print(json.dumps(figures, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")
    whole = len(figures["killed"]["kills"]) == options.kills and not figures["left_over"]
    sys.exit(0 if whole and figures["alone"]["ok"] and figures["killed"]["ok"] else 1)


if __name__ == "__main__":
    main()
