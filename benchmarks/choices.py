"""What newslora's defaults cost or bring: dropout, the warm head, and LoRA in the upper half with its prefix cache.

    python benchmarks/choices.py --data TRAIN.csv --test TEST.csv --rows 2000 --epochs 2 --output choices

Every way gets the same draw of rows, the same schedule and the same seed, and is looked at on validation rows every few
steps; the test rows are scored once, at the end. What stands in OUTPUT.jsonl is not repeated, so the script may be
stopped and started at will. The table gives means over the seeds and the differences from the defaults, with 95%
intervals of Student's t over the seeds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

LOOK = 500  # validation rows of a look
TARGETS = (0.75, 0.80, 0.85)
WAYS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "LoRA in the upper half, cached below": {"lora": {"layers": "3-5"}},
    "without warm head": {"train": {"warm_head": False}},
    "dropout 0.1 in the frozen backbone": {"model": {"dropout": 0.1}},
    "dropout 0.1 in LoRA": {"lora": {"dropout": 0.1}},
}


def settings(options: argparse.Namespace, way: str, seed: int) -> Any:
    """Return a way's settings."""
    from newslora.config import RunConfig

    common: dict[str, dict[str, Any]] = {
        "data": {"train": options.data, "test": options.test, "limit": options.rows},
        "train": {"epochs": options.epochs, "seed": seed},
    }
    for section, own in WAYS[way].items():
        common[section] = common.get(section, {}) | own
    return RunConfig.from_dict(common)


def measured(options: argparse.Namespace, data: Any, way: str, seed: int) -> dict[str, Any]:
    """Train one way, looking at validation rows as it goes, and score the test rows at its end."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    from newslora.model.classifier import build_model
    from newslora.model.memory import keep_memory
    from newslora.model.prefix import build_prefix
    from newslora.model.warm_head import warm_head
    from newslora.training.plan import StepPlan
    from newslora.training.schedule import build_optimizer, learning_rate
    from newslora.training.stepping import Stepper

    keep_memory()
    set_seed(seed)
    config = settings(options, way, seed)
    model = build_model(config, data.names)
    if config.train.warm_head:
        warm_head(model, data.train.encoded, data.train.labels, seed)
    prefix = build_prefix(model, data.train.encoded)
    optimizer = build_optimizer(model.trainable_parameters(), config.train)
    step = Stepper(Accelerator(cpu=True), model, optimizer, config.train, data, prefix)
    plan = StepPlan(config.train, data.train.encoded.lengths, 1)
    steps = [batches for epoch in range(options.epochs) for batches in plan.steps(epoch)]
    rate, looks, seconds = learning_rate(config.train, len(steps)), [(0, accuracy(model, data.validation, LOOK))], []
    model.train()
    for number, batches in enumerate(steps, start=1):
        started = time.perf_counter()
        step(batches, rate(number - 1))
        seconds.append(time.perf_counter() - started)
        if number % options.every == 0:
            looks.append((number, accuracy(model, data.validation, LOOK)))
    if prefix is not None:
        prefix.discard()
    return {
        "way": way,
        "seed": seed,
        "looks": looks,
        "step": statistics.median(seconds),
        "test": accuracy(model, data.test),
    }


def accuracy(model: Any, split: Any, rows: int | None = None) -> float:
    """Return the accuracy on a split's rows, or its first ``rows`` alone."""
    from newslora.model.classifier import predict_logits

    labels = np.array(split.labels[:rows])
    found = predict_logits(model, split.encoded.take(np.arange(len(labels)))).argmax(axis=1)
    return float((found == labels).mean())


def interval(values: list[float]) -> str:
    """Return mean and 95% interval of Student's t, in points."""
    mean, spread = 100 * statistics.mean(values), 100 * statistics.stdev(values) / len(values) ** 0.5
    half = spread * student.ppf(0.975, len(values) - 1)
    return f"{mean:+.2f} ({mean - half:.2f} to {mean + half:.2f})"


def steps_to(rows: list[dict[str, Any]], target: float) -> str:
    """Return the mean step of the first look that reached ``target``, at least the last one's where a run never did."""
    looks = [row["looks"] for row in rows]
    firsts = [next((step for step, found in own if found >= target), own[-1][0]) for own in looks]
    missed = any(all(found < target for _, found in own) for own in looks)
    return f"{'> ' if missed else ''}{statistics.mean(firsts):.0f}"


def report(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    cells = ["way", "seeds", "test accuracy", "sd", "difference, points (95%)", "median step, seconds"]
    print("\n| " + " | ".join([*cells, *(f"mean steps to {target}" for target in TARGETS)]) + " |")
    print("|---|" + "---:|" * (len(cells) + len(TARGETS) - 1))
    base = {row["seed"]: row["test"] for row in rows if row["way"] == next(iter(WAYS))}
    for way in WAYS:
        own = [row for row in rows if row["way"] == way and row["seed"] in base]
        if len(own) < 2:
            continue
        tests, gains = [row["test"] for row in own], [row["test"] - base[row["seed"]] for row in own]
        line = [way, str(len(own)), f"{statistics.mean(tests):.4f}", f"{statistics.stdev(tests):.4f}"]
        line += [interval(gains) if any(gains) else "", f"{statistics.median(row['step'] for row in own):.3f}"]
        print("| " + " | ".join(line + [steps_to(own, target) for target in TARGETS]) + " |")


def main() -> None:
    """Measure every way and seed that does not stand in the output yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled table to train on")
    parser.add_argument("--test", required=True, help="labelled table that is scored at the end")
    parser.add_argument("--rows", type=int, default=2000, help="training rows (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--every", type=int, default=10, help="steps between two looks (default %(default)s)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="(default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", default="choices", help="name of the JSONL file, without ending")
    options = parser.parse_args()
    from newslora.data.prepare import prepare
    from newslora.model.backbone import load_tokenizer

    file = Path(f"{options.output}.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    stands = {(row["way"], row["seed"]) for row in rows}
    for seed in options.seeds:
        missing = [way for way in options.ways if (way, seed) not in stands]
        if not missing:
            continue
        data = prepare(settings(options, missing[0], seed).data, load_tokenizer("minilm"), seed=seed)
        for way in missing:
            rows.append(measured(options, data, way, seed))
            print(f"seed {seed}, {way}: {rows[-1]['test']:.4f}", flush=True)
            with file.open("a") as out:
                out.write(json.dumps(rows[-1]) + "\n")
    report(rows)


if __name__ == "__main__":
    main()
