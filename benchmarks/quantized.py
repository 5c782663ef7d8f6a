"""A frozen backbone in full precision, 8 bits and 4 bits: accuracy over seeds, and memory of a training step.

    python benchmarks/quantized.py accuracy --data TRAIN.csv --test TEST.csv --limit 6000 --output quantized
    python benchmarks/quantized.py memory --articles 8 --tokens 128

Accuracy: every precision gets the same rows, settings and seeds. A run that stands is not trained again, so the script
may be stopped and started at will; differences from full precision come with a 95% bootstrap interval over the test rows
(means over seeds). Memory: a model of roberta-base's shape with random weights, each precision in a process of its own;
the peak is that of the steps, not of building the model.
"""

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

WAYS: dict[str, dict[str, str]] = {
    "full precision": {},
    "int8": {"model.quantization": "int8"},
    "nf4": {"model.quantization": "nf4"},
    "nf4, 8-bit AdamW": {"model.quantization": "nf4", "train.optimizer": "adamw8bit"},
}
STEPS = 3


def predictions(options: argparse.Namespace, way: str, seed: int) -> np.ndarray:
    """Train one run unless it stands, and return which test rows it gets right, bool [rows]."""
    from newslora.config import load_config
    from newslora.workflow import train

    folder = options.output / f"{way.replace(', ', '-').replace(' ', '-')}-seed{seed}"
    own = {
        "data.train": options.data,
        "data.test": options.test,
        "data.limit": str(options.limit),
        "model.backbone": options.backbone,
        "lora.targets": options.targets,
        "lora.r": str(options.rank),
        "lora.alpha": str(2 * options.rank),
        "train.epochs": str(options.epochs),
        "train.seed": str(seed),
    }
    if not (folder / "evaluation.json").exists():
        print(f"{way}, seed {seed}", flush=True)
        train(load_config(overrides=own | WAYS[way]), folder, resume=(folder / "config.yaml").exists())
    table = np.genfromtxt(folder / "predictions.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    right: np.ndarray = table["label"] == table["predicted"]
    return right


def accuracy(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train what is missing, and return a row for each precision."""
    right: dict[str, list[np.ndarray]] = {way: [] for way in options.ways}
    for seed in options.seeds:  # seed by seed: whenever it is stopped, all ways have as many
        for way in options.ways:
            right[way].append(predictions(options, way, seed))
    rows = []
    full = np.array(right[options.ways[0]]).mean(axis=0)
    for way, runs in right.items():
        by_seed, gain = np.array(runs).mean(axis=1), np.array(runs).mean(axis=0) - full
        row: dict[str, Any] = {"precision": way, "accuracies": by_seed.tolist(), "mean": by_seed.mean()}
        if gain.any():
            interval = bootstrap((gain,), np.mean, n_resamples=9999, rng=np.random.default_rng(0)).confidence_interval
            row |= {"difference": gain.mean(), "difference_95": [interval.low, interval.high]}
        rows.append(row)
    return rows


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each precision, measured in a child process."""
    rows = []
    for way, own in WAYS.items():
        command = [sys.executable, __file__, "step", json.dumps(own)]
        command += ["--articles", str(options.articles), "--tokens", str(options.tokens)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append({"precision": way, **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], flush=True)
    return rows


def step(options: argparse.Namespace) -> None:
    """Build the model, take some training steps, and print what memory they took, in bytes."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from newslora.config import load_config as settings
    from newslora.data.batches import Batch
    from newslora.model.adapter import attach
    from newslora.model.backbone import load_config, prepare_config
    from newslora.model.classifier import NewsModel
    from newslora.model.families import family_of
    from newslora.model.memory import keep_memory, trim_memory
    from newslora.model.quantized import quantize
    from newslora.training.schedule import build_optimizer

    config, names = settings(overrides=json.loads(options.way)), ("a", "b", "c", "d")
    shape = load_config("roberta-base")
    prepare_config(shape, names, 0.0)
    plain = AutoModelForSequenceClassification.from_config(shape)
    family = family_of(shape, "roberta-base")
    if config.model.quantization != "none":
        quantize(plain, family, config.model.quantization)
    tuned = attach(plain, family, config.lora, config.model.head)
    identity: dict[str, str | None] = {"backbone": "roberta-base", "weights_sha256": None}
    model = NewsModel(tuned, None, names, identity, options.tokens).train()  # the packed pass needs no tokenizer
    optimizer = build_optimizer(model.trainable_parameters(), config.train)
    gc.collect()
    trim_memory()
    keep_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before = status("VmRSS")
    ids = torch.randint(5, shape.vocab_size, (options.articles * options.tokens,))
    batch = Batch(ids, (options.tokens,) * options.articles, tuple(range(options.articles)))
    for _ in range(STEPS):
        torch.nn.functional.cross_entropy(model(batch), torch.zeros(options.articles, dtype=torch.long)).backward()
        optimizer.step()
        optimizer.zero_grad()
    layers = plain.get_submodule(family.layers)
    print(
        json.dumps(
            {
                "layers_weights": size(layers),
                "all_weights": size(plain),
                "rss_before": before,
                "peak_rss": status("VmHWM"),
            }
        )
    )


def size(module: Any) -> int:
    """Return the bytes of a module's parameters and buffers, those that are trained left out."""
    tensors = [p for p in module.parameters() if not p.requires_grad]
    return sum(tensor.nbytes for tensor in [*tensors, *module.buffers()])


def status(field: str) -> int:
    """Return a figure of this process, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


def show(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "accuracies"))
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_cell(part) for part in value)
    return f"{value / 1e6:,.1f} MB" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else value


def main() -> None:
    """Measure accuracy or memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("accuracy")
    one.add_argument("--data", required=True, help="training table")
    one.add_argument("--test", required=True, help="test table")
    one.add_argument("--output", type=Path, default=Path("quantized"), help="folder (default %(default)s)")
    one.add_argument("--limit", type=int, default=6000)
    one.add_argument("--backbone", default="minilm")
    one.add_argument("--targets", default="query,value")
    one.add_argument("--rank", type=int, default=16, help="from 11 on, MiniLM's moments are large enough for 8 bits")
    one.add_argument("--epochs", type=int, default=2)
    one.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="the first is compared with")
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    for two in (parts.add_parser("memory"), parts.add_parser("step")):
        two.add_argument("--articles", type=int, default=8)
        two.add_argument("--tokens", type=int, default=128)
    two.add_argument("way")
    options = parser.parse_args()
    if options.part == "step":
        step(options)
    elif options.part == "memory":
        show(memory(options))
    else:
        options.output.mkdir(parents=True, exist_ok=True)
        rows = accuracy(options)
        show(rows)
        (options.output / "comparison.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
