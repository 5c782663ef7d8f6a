"""A million rows through ``newslora predict``: memory stays flat, and kills lose nothing.

    python tests/soak/predict_million.py --output predict_million.json
    python tests/soak/predict_million.py --run EXPORT --data TEST.csv --rows 1000000 --kills 20

The rows of a table are repeated, each with its own id. 1. A tenth of the rows and all of them are classified by
``newslora predict`` in processes of their own, whose peak memory the system tells. 2. The same command is killed by
SIGKILL at random moments and started again until it is done; its output must equal the uninterrupted one byte for byte.
Without ``--run`` a small encoder with random weights and MiniLM's tokenizer is made and exported to 8-bit integers.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

MOST_MB, GROWTH = 1536, 1.10


def small_export(folder: Path) -> Path:
    """Make a run with a small random encoder and export it to 8-bit integers."""
    import torch
    from transformers import BertConfig, BertModel

    from newslora.config import RunConfig
    from newslora.data.cleaning import Cleaner
    from newslora.inference.export import export_run
    from newslora.model.backbone import load_tokenizer, quiet_transformers
    from newslora.model.classifier import build_model

    tokenizer = load_tokenizer("minilm")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    torch.manual_seed(0)
    with quiet_transformers():
        BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "backbone")
        tokenizer.save_pretrained(folder / "backbone")
    settings = {"model": {"backbone": str(folder / "backbone")}, "data": {"max_length": 64}}
    model = build_model(RunConfig.from_dict(settings), ("World", "Sports", "Business", "Sci/Tech"))
    Cleaner().save(folder / "adapter" / "cleaner.json")
    model.save_adapter(folder / "adapter")
    export_run(folder / "adapter", "onnx-int8", folder / "int8")
    return folder / "int8"


def write_rows(path: Path, data: str, count: int) -> None:
    """Repeat a table's texts until there are enough, each row with an id of its own."""
    from newslora.config import DataConfig
    from newslora.data.sources import read_table

    texts = read_table(data, DataConfig(), split="test", need_label=False).texts
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows(enumerate(islice(cycle(texts), count)))


def command(run: Path, source: Path, output: Path) -> list[str]:
    words = ["predict", str(run), "--input", str(source), "--output", str(output)]
    return [sys.executable, "-m", "newslora.cli.main", *words]


def measured(words: list[str]) -> dict[str, float]:
    """Run a command to its end and return its time and peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen(words)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"failed: {' '.join(words)}")
    return {"seconds": time.perf_counter() - start, "peak_mb": usage.ru_maxrss / 1024}


def kill_and_resume(words: list[str], seconds: float, kills: int, seed: int) -> list[float]:
    """Kill a command at random moments and start it again; return the moments, in seconds after each start."""
    moments: list[float] = []
    draw = random.Random(seed)
    while True:
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        try:
            # From the first instant to so late that all kills together leave some work for the last start.
            limit = draw.uniform(0, 1.8 * seconds / kills + 8) if len(moments) < kills else None
            if process.wait(limit):
                sys.exit(f"failed after {len(moments)} kills")
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(limit or 0.0)
            print(f"kill {len(moments)} after {limit:.1f} s", flush=True)
            continue
        return moments


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Measure, print and write the figures; leave with status 1 where one is out of bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="run folder or export (default: a small one is made)")
    parser.add_argument("--data", default="sample", help="table whose rows are repeated (default: the packaged sample)")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kind", default="csv", help="kind of the output: csv, jsonl, csv.gz, parquet …")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = Path(options.run) if options.run else small_export(folder)
        figures: dict[str, Any] = {"options": vars(options), "memory": {}}
        for rows in (options.rows // 10, options.rows):
            write_rows(folder / f"{rows}.csv", options.data, rows)
            whole = folder / f"whole.{rows}.{options.kind}"
            figures["memory"][rows] = measured(command(run, folder / f"{rows}.csv", whole))
            print(rows, figures["memory"][rows], flush=True)
        killed = folder / f"killed.{options.kind}"
        words, seconds = (
            command(run, folder / f"{options.rows}.csv", killed),
            figures["memory"][options.rows]["seconds"],
        )
        figures["kills"] = kill_and_resume(words, seconds, options.kills, options.seed)
        figures["equal"] = digest(killed) == digest(whole)
        figures["left_over"] = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    tenth, million = (figures["memory"][rows]["peak_mb"] for rows in (options.rows // 10, options.rows))
    figures["flat"] = million <= min(MOST_MB, GROWTH * tenth)
    print(json.dumps(figures, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if figures["flat"] and figures["equal"] and not figures["left_over"] else 1)


if __name__ == "__main__":
    main()
