"""Training on a stream of Parquet files: memory stays flat, and a kill in the middle of a window changes no byte.

    python -m tests.soak.stream_parquet --output stream_parquet.json
    python -m tests.soak.stream_parquet --files 1000 --rows 500 --steps 2000

Files of invented articles are written to a temporary folder. 1. A tiny encoder is trained on them; the process's resident
memory is read four times a second. 2. The same is killed by SIGKILL at random moments and resumed; adapter and learning
curve must equal the uninterrupted run's byte for byte. Memory counts as flat when the mean of the last third of training is
at most 5% above that of the middle third.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from tests.newsroom import articles, make_backbone

FLAT = 1.05


def write_files(folder: Path, files: int, rows: int) -> None:
    """Write files of articles, each article its own."""
    folder.mkdir()
    for number in range(files):
        labels, texts = zip(*articles(rows, number), strict=True)
        texts = tuple(f"{text} {number} {row}" for row, text in enumerate(texts))
        pq.write_table(pa.table({"label": labels, "text": texts}), folder / f"part-{number:05}.parquet")


def command(folder: Path, output: Path, options: argparse.Namespace, *, resume: bool = False) -> list[str]:
    settings = {
        "data.train": folder / "news",
        "data.streaming": "true",
        "data.buffer": options.buffer,
        "data.max_length": 32,
        "model.backbone": folder / "backbone",
        "train.steps": options.steps,
        "train.checkpoint_steps": max(1, options.steps // 50),
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [
        sys.executable,
        "-m",
        "newslora.cli.main",
        "train",
        *words,
        "--output",
        str(output),
        *(["--resume"] if resume else []),
    ]


def watch(words: list[str]) -> dict[str, Any]:
    """Run a command to its end; return its seconds and its resident memory in MiB over time."""
    begun, memory = time.perf_counter(), []
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            memory.append(
                (round(time.perf_counter() - begun, 2), psutil.Process(process.pid).memory_info().rss / 2**20)
            )
        except psutil.Error:
            break
        time.sleep(0.25)
    if process.wait():
        sys.exit(f"failed: {' '.join(words)}")
    return {"seconds": time.perf_counter() - begun, "memory": memory}


def steps_done(run: Path) -> int:
    lines = (run / "steps.jsonl").read_text().splitlines() if (run / "steps.jsonl").exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def train_killed(folder: Path, run: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train while killed after random steps, each time resumed; return where each kill struck."""
    draw, killed = random.Random(options.seed), list[dict[str, Any]]()
    moments = sorted(draw.randint(1, max(1, 9 * options.steps // 10)) for _ in range(options.kills))
    while True:
        resume = (run / "config.yaml").exists()
        process = subprocess.Popen(command(folder, run, options, resume=resume), stdout=subprocess.DEVNULL)
        while process.poll() is None and not (moments and steps_done(run) >= moments[0]):
            time.sleep(0.02)
        if process.poll() is None:
            time.sleep(draw.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed.append({"wanted": moments.pop(0), "step": steps_done(run)})
            print(f"kill {len(killed)}: {killed[-1]}", flush=True)
            continue
        if process.returncode:
            sys.exit(f"failed after {len(killed)} kills")
        return killed


def thirds(memory: list[tuple[float, float]]) -> list[float]:
    """Return the mean memory of each third of the time."""
    end = memory[-1][0] + 1e-9
    parts = [[mb for at, mb in memory if end * i / 3 <= at < end * (i + 1) / 3] for i in range(3)]
    return [round(sum(part) / len(part), 1) for part in parts]


def outcome(run: Path) -> tuple[bytes, bytes]:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes(), (run / "steps.jsonl").read_bytes()


def main() -> None:
    """Measure, print and write the figures; leave with status 1 where memory grows or bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=500, help="rows a file")
    parser.add_argument("--buffer", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["NEWSLORA_CACHE"] = str(folder / "cache")
        write_files(folder / "news", options.files, options.rows)
        make_backbone(folder / "backbone")
        figures: dict[str, Any] = {"options": vars(options), **watch(command(folder, folder / "whole", options))}
        figures["thirds_mb"] = thirds(figures["memory"])
        print(f"{figures['seconds']:.0f} s, memory by thirds {figures['thirds_mb']} MiB", flush=True)
        figures["kills"] = train_killed(folder, folder / "killed", options)
        figures["equal"] = outcome(folder / "killed") == outcome(folder / "whole")
    figures["flat"] = all(later <= FLAT * before for before, later in pairwise(figures["thirds_mb"][1:]))
    print(json.dumps({name: value for name, value in figures.items() if name != "memory"}, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if figures["flat"] and figures["equal"] else 1)


if __name__ == "__main__":
    main()
