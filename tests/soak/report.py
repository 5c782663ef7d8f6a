"""Writes ``docs/reliability.md`` from the soak scripts' results."""

import argparse
import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from tests.soak.guards import GUARDS
from tests.soak.ledger import RESULTS

TITLES = {
    "kills-plain": ("SIGKILL, then `--resume`: bytes equal", 100),
    "kills-prefix": ("the same with the prefix cache in a file", 20),
    "kills-two": ("the same while two processes train (gloo)", 20),
    "disk": ("full disk: clear error, checkpoint loads, `--resume` ends with equal bytes", 20),
    "tables": ("bad tables: refused in one line or read, 10 s, 1 GiB", 10_000),
    "runs": ("altered run folders: refused, or exactly the right answers", 1000),
    "guards": ("guards against silently wrong numbers taken out: the test fails", len(GUARDS)),
}

HEAD = """# Reliability at scale

What the unit tests promise in small, tried by the scripts in `tests/soak/` (how: `tests/soak/README.md`). This page is written by
`python -m tests.soak.report`.

| what | trials | passed | kinds | seconds a trial (median, longest) |
|---|---:|---:|---|---:|
"""

TAIL = """
What equal bytes are: every file of `adapter/`, `metrics.jsonl` without its times, and `steps.jsonl`, against a run that nothing
interrupted. Half of the kills by SIGKILL come by the clock, half right before a drawn change on the disk (opening for writing,
renaming, making or removing, below the run folder or the cache): so also inside the writing of a checkpoint, of the prefix cache and
of what follows training. A trial's seconds count the making of what it tries; the limit of 10 s does not.
"""


def line(name: str, rows: list[dict[str, Any]]) -> str:
    """Return a script's row of the table."""
    title, wanted = TITLES[name]
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(row["kind"] for row in rows).most_common(9))
    times = [row["seconds"] for row in rows]
    passed = sum(row["ok"] for row in rows)
    return (
        f"| {title} | {len(rows):,} of {wanted:,} | {passed:,} | {kinds} | "
        f"{statistics.median(times):.2f}, {max(times):.1f} |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.soak.report")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--output", type=Path, default=Path("docs/reliability.md"))
    options = parser.parse_args()
    text = HEAD
    for name in TITLES:
        file = options.results / f"{name}.jsonl"
        if file.exists():
            text += line(name, [json.loads(row) for row in file.read_text().splitlines()])
    options.output.write_text(text + TAIL)


if __name__ == "__main__":
    main()
