"""How fast each form of a run classifies beside transformers.pipeline: same rows, same machine, in turn.

Run on a quiet machine:

    python benchmarks/predict_speed.py --run RUN --data TEST.csv --rows 1000 --output predict_speed

The run is exported once in every form. Each variant then classifies the same rows in a process of its own, in turn,
``--repeats`` times over; loading and one warm-up are not timed. newslora's variants are timed from the table on disk to
the written file (``newslora predict``), the pipeline's from texts in memory to its answers. A second round classifies
texts one at a time and takes the median of their times. The table shows medians over the repeats; OUTPUT.json holds
everything.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

FORMS = ("merged", "onnx", "onnx-int8")
PIPELINE_BATCHES = (1, 8, 32)
WARM_UP = 64
BULK = [f"pipeline, batch {size}" for size in PIPELINE_BATCHES] + [f"newslora {form}" for form in ("adapter", *FORMS)]
SINGLE = ["pipeline", *(f"newslora {form}" for form in ("adapter", *FORMS))]


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Write the rows as a table of one text column, and the run in every form."""
    from newslora.config import DataConfig
    from newslora.data.sources import read_table
    from newslora.inference.export import export_run

    texts = read_table(options.data, DataConfig(), split="test", need_label=False).texts
    step = max(1, len(texts) // options.rows)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts[::step][: options.rows])])
    (folder / "adapter").symlink_to(Path(options.run).resolve())
    for form in FORMS:
        if form != "merged" and options.only and not form.endswith(tuple(options.only)):
            continue  # the pipeline needs the merged one
        print(json.dumps(export_run(options.run, form, folder / form, options.data)), flush=True)


def read_texts(folder: Path) -> list[str]:
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as file:
        return [row["text"] for row in csv.DictReader(file)]


def tokens_per_row(run: str, folder: Path) -> float:
    """Return the mean number of tokens that newslora passes through the encoder."""
    from newslora.data.encoding import encode
    from newslora.inference.classifier import NewsClassifier

    classifier = NewsClassifier.load(run)
    texts = [classifier.repair(text) for text in read_texts(folder)]
    return float(encode(texts, classifier.model.tokenizer, classifier.model.max_length, cache=False).lengths.mean())


def load_pipeline(folder: Path) -> Any:
    """Return the pipeline as its documentation shows it, on all cores."""
    from transformers import pipeline

    return pipeline("text-classification", model=str(folder / "merged"), device=-1)


def bulk_pipeline(folder: Path, size: int) -> dict[str, Any]:
    classify, texts = load_pipeline(folder), read_texts(folder)
    classify(texts[:WARM_UP], batch_size=size, truncation=True)
    start = time.perf_counter()
    answers = classify(texts, batch_size=size, truncation=True)
    return {"seconds": time.perf_counter() - start, "labels": [answer["label"] for answer in answers]}


def load_newslora(folder: Path, form: str) -> Any:
    from newslora.inference.classifier import NewsClassifier
    from newslora.model.memory import keep_memory

    keep_memory()
    return NewsClassifier.load((folder / form).resolve())


def bulk_newslora(folder: Path, form: str) -> dict[str, Any]:
    from newslora.inference.bulk import predict_file

    classifier, texts = load_newslora(folder, form), read_texts(folder)
    classifier.predict(texts[:WARM_UP])
    output = folder / f"{form}.jsonl"
    start = time.perf_counter()
    predict_file(classifier, str(folder / "rows.csv"), str(output))
    seconds = time.perf_counter() - start
    labels = [json.loads(line)["label"] for line in output.read_text(encoding="utf-8").splitlines()]
    return {"seconds": seconds, "labels": labels}


def single(folder: Path, name: str, count: int) -> dict[str, Any]:
    """Classify texts one at a time."""
    texts = read_texts(folder)[: count + WARM_UP]
    if name == "pipeline":
        answer = partial(load_pipeline(folder), truncation=True)
    else:
        predict = load_newslora(folder, name.removeprefix("newslora ")).predict

        def answer(text: str) -> Any:
            return predict([text])

    times = []
    for text in texts:
        start = time.perf_counter()
        answer(text)
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[WARM_UP:])}


def peak_mb() -> float:
    """Return this process's peak memory; getrusage would tell the parent's where that was greater."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def work(options: argparse.Namespace) -> None:
    """Measure one variant in this process and print it as JSON."""
    folder, (kind, name) = Path(options.folder), options.worker
    if kind == "single":
        result = single(folder, name, options.single)
    elif name.startswith("pipeline"):
        result = bulk_pipeline(folder, int(name.rpartition(" ")[2]))
    else:
        result = bulk_newslora(folder, name.removeprefix("newslora "))
    result["peak_mb"] = peak_mb()
    print(json.dumps(result))


def run_one(kind: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one variant in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--worker", kind, name, "--folder", options.folder]
    command += ["--run", options.run, "--data", options.data, "--single", str(options.single)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report(bulk: dict[str, list[Any]], alone: dict[str, list[Any]], rows: int) -> list[dict[str, Any]]:
    """Print the two tables and return their rows."""
    rates = {name: rows / statistics.median(run["seconds"] for run in runs) for name, runs in bulk.items()}
    best = max(rate for name, rate in rates.items() if name.startswith("pipeline"))
    told: list[dict[str, Any]] = []
    print(f"\n{rows:,} rows, medians\n\n| variant | rows/s | of the pipeline's best | labels as adapter's | peak MB |")
    print("|---|---:|---:|---:|---:|")
    reference = bulk["newslora adapter"][0]["labels"] if "newslora adapter" in bulk else None
    for name, rate in rates.items():
        peak = statistics.median(run["peak_mb"] for run in bulk[name])
        pairs = zip(bulk[name][0]["labels"], reference or (), strict=False)
        same = statistics.mean(a == b for a, b in pairs) if reference else float("nan")
        print(f"| {name} | {rate:.1f} | {rate / best:.2f}× | {same:.2%} | {peak:.0f} |")
        told.append({"variant": name, "rows_per_second": rate, "times_best_pipeline": rate / best, "agreement": same})
    times = {name: statistics.median(run["seconds"] for run in runs) for name, runs in alone.items()}
    print("\n| one text at a time | median ms | of the pipeline's |\n|---|---:|---:|")
    for name, seconds in times.items():
        share = seconds / times["pipeline"]
        print(f"| {name} | {1000 * seconds:.2f} | {share:.0%} |")
        told.append({"variant": f"{name}, one at a time", "median_ms": 1000 * seconds, "share_of_pipeline": share})
    return told


def environment() -> dict[str, Any]:
    import onnxruntime
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    versions["onnxruntime"] = onnxruntime.__version__
    cores = len(os.sched_getaffinity(0))
    return versions | {"python": platform.python_version(), "cores": cores, "threads": torch.get_num_threads()}


def main() -> None:
    """Measure every variant in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="trained run folder")
    parser.add_argument("--data", default="sample", help="table to classify (default: the packaged sample)")
    parser.add_argument("--rows", type=int, default=1000, help="rows to classify")
    parser.add_argument("--single", type=int, default=200, help="texts to classify one at a time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", nargs="*", default=[], help="variants to measure beside the pipeline's, by their ends"
    )
    parser.add_argument("--output", default="predict_speed", help="name of the JSON file, without ending")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    wanted = ("pipeline", "adapter", *options.only) if options.only else None
    bulk: dict[str, list[Any]] = {n: [] for n in BULK if not wanted or n.startswith("pipe") or n.endswith(wanted)}
    alone: dict[str, list[Any]] = {n: [] for n in SINGLE if not wanted or n.endswith(wanted)}
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        prepare(options, Path(folder))
        rows, tokens = len(read_texts(Path(folder))), tokens_per_row(options.run, Path(folder))
        for _ in range(options.repeats):
            for kind, results in (("bulk", bulk), ("single", alone)):
                for name, runs in results.items():
                    runs.append(run_one(kind, name, options))
                    print(kind, name, f"{runs[-1]['seconds']:.4f} s", flush=True)
    table = report(bulk, alone, rows)
    for runs in bulk.values():
        for run in runs:
            del run["labels"]
    asked = {"run": Path(options.run).name, "data": Path(options.data).name, "rows": rows, "repeats": options.repeats}
    asked["tokens_per_row"] = tokens
    content = {"options": asked, "environment": environment(), "table": table, "bulk": bulk, "single": alone}
    Path(f"{options.output}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
