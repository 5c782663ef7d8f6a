"""How fast newslora trains beside transformers' Trainer with peft: same rows, backbone, rank, batch size and precision.

Run on a quiet machine:

    python benchmarks/train_speed.py --data TRAIN.csv --backbone minilm --output train_speed-minilm

Each variant trains in a process of its own, in turn, ``--repeats`` times over. newslora trains two epochs and the
second is timed (so the prefix cache stands); a Trainer trains one batch to warm up, then one timed epoch. The table
shows medians; OUTPUT.json and OUTPUT.png hold the same figures.

Where there is a CUDA GPU everything runs on it in bf16, and memory is the GPU's. The paper's rank and a shape whose
graphs are all recorded within the first epoch:

    python benchmarks/train_speed.py --data TRAIN.csv --backbone roberta-base-shape --rank 16 --rows 20000
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 32
PAPER_ARTICLES = 6 * 120_000
SHAPE = "roberta-base-shape"


def articles(options: argparse.Namespace) -> Any:
    """Return the labelled, encoded articles that every variant trains on."""
    from newslora.config import RunConfig
    from newslora.data.prepare import prepare
    from newslora.model.backbone import load_tokenizer

    # The random roberta-base has no tokenizer of its own; MiniLM's gives ids and lengths of the same kind.
    settings = {"train": options.data, "limit": options.rows, "max_length": options.length}
    return prepare(RunConfig.from_dict({"data": settings}).data, load_tokenizer("minilm"), seed=0)


def backbone_folder(name: str, folder: Path) -> str:
    """Return what both sides load: the real MiniLM, or roberta-base's shape with random weights."""
    from newslora.model import backbone

    if name != SHAPE:
        return backbone.locate(name)
    import torch
    from transformers import AutoModel

    torch.manual_seed(0)
    with backbone.quiet_transformers():
        AutoModel.from_config(backbone.load_config("roberta-base")).save_pretrained(folder)
        backbone.load_tokenizer("minilm").save_pretrained(folder)
    return str(folder)


def newslora(
    options: argparse.Namespace, *, targets: str = "query,value", layers: str | None = None
) -> dict[str, float]:
    """Train with newslora's own loop and read the epoch's time from its metrics."""
    from newslora.config import RunConfig
    from newslora.model.classifier import build_model
    from newslora.model.memory import keep_memory
    from newslora.training.loop import fit
    from newslora.training.run_folder import RunFolder

    keep_memory()
    data = articles(options)
    lora = {"r": options.rank, "alpha": 2 * options.rank, "targets": targets, "layers": layers}
    config = RunConfig.from_dict(
        {
            "model": {"backbone": options.folder, "head": "full"},
            "lora": lora,
            "train": {"epochs": 2, "batch_size": BATCH, "lr": 2e-4, "warm_head": False},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", config)
        model = build_model(config, data.names)
        fit(config, data, model, run, lambda _: None)
        seconds = run.metrics()[-1]["seconds"]
    result = {"seconds": seconds, **_sizes(data)}
    return result | {"flops": executed_flops(model, config, data)} if layers is None else result


def executed_flops(model: Any, config: Any, data: Any) -> float:
    """Count the arithmetic of the linear layers' products that one epoch executes, forward and backward."""
    from torch.nn.functional import cross_entropy
    from torch.utils.flop_counter import FlopCounterMode

    from newslora.data.batches import make_batch
    from newslora.model import products
    from newslora.training.plan import StepPlan

    total, device = 0, next(model.parameters()).device
    model.train()
    products.prefers_onednn = lambda: False  # type: ignore[assignment]  # the counter knows the stock products alone
    steps = StepPlan(config.train, data.train.encoded.lengths, 1).steps(1)[:4]
    for [rows] in steps:
        batch = make_batch(data.train.encoded, rows, data.train.labels).to(device)
        with FlopCounterMode(display=False) as counter:
            cross_entropy(model(batch), batch.labels).backward()
        counts = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
        total += sum(counts.get(op, 0) for op in ("aten.mm", "aten.addmm")) / len(batch.input_ids)
    return total / len(steps) * _sizes(data)["tokens"]


def trainer(options: argparse.Namespace, *, padding: str, sampling: str, dropout: bool) -> dict[str, float]:
    """Train with transformers' Trainer on peft's model, as their documentation shows."""
    import peft
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    gpu = torch.cuda.is_available()
    data = articles(options)
    off = {} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(options.folder, num_labels=len(data.names), **off)
    lora = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=options.rank,
        lora_alpha=2 * options.rank,
        target_modules=["query", "value"],
        modules_to_save=["pooler"],
    )
    epochs: list[float] = []

    class Clock(TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            if gpu:
                torch.cuda.synchronize()
            epochs.append(time.perf_counter() - self.start)

    from newslora.model.backbone import load_tokenizer

    tokenizer = load_tokenizer("minilm")
    collator = DataCollatorWithPadding(tokenizer, padding=padding, max_length=options.length)
    encoded, rows = data.train.encoded, []
    for row, label in enumerate(data.train.labels):
        ids = encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]].tolist()
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label, "length": len(ids)})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=2e-4,
            train_sampling_strategy=sampling,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=not gpu,
            bf16=gpu,
        )
        adapted = peft.get_peft_model(model, lora)
        for part in (rows[:BATCH], rows):
            Trainer(adapted, arguments, collator, part, callbacks=[Clock()]).train()
    return {"seconds": epochs[-1], **_sizes(data)}


def matrix_product(options: argparse.Namespace) -> dict[str, float]:
    """Measure the bare product's rate, PyTorch's own and the faster of it and oneDNN's.

    The shape is the feed-forward network's at a batch's tokens.
    """
    import torch
    from transformers import AutoConfig

    from newslora.model.products import product

    config, gpu = AutoConfig.from_pretrained(options.folder), torch.cuda.is_available()
    kind: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16} if gpu else {}
    x = torch.randn(BATCH * 52, config.hidden_size, **kind)
    w = torch.randn(config.intermediate_size, config.hidden_size, **kind)
    rates = []
    for bare in (lambda: torch.mm(x, w.t()), lambda: product(x, w)):
        times = []
        for _ in range(60):
            start = time.perf_counter()
            bare()
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        rates.append(2 * x.numel() * len(w) / statistics.median(times[10:]) / 1e9)
    return {"torch_gflops": rates[0], "gflops": max(rates)}


Variant = Callable[[argparse.Namespace], dict[str, float]]
_PEERS = {
    "a: Trainer+peft, padded to 128": ("max_length", "random"),
    "b: Trainer+peft, dynamic padding": ("longest", "random"),
    "c: Trainer+peft, group_by_length": ("longest", "group_by_length"),
}


def variants() -> dict[str, Variant]:
    """Return what is measured, by name."""
    made: dict[str, Variant] = {"matrix product": matrix_product, "newslora": newslora}
    made["newslora, upper half + prefix cache"] = lambda o: newslora(o, layers=o.upper)
    for name, (padding, sampling) in _PEERS.items():
        for dropout in (True, False):
            label = name if dropout else f"{name}, no dropout"
            made[label] = lambda o, p=padding, s=sampling, d=dropout: trainer(o, padding=p, sampling=s, dropout=d)
    return made


def _sizes(data: Any) -> dict[str, float]:
    return {"samples": len(data.train.labels), "tokens": int(data.train.encoded.lengths.sum())}


def work(options: argparse.Namespace) -> None:
    """Measure one variant in this process and print it as JSON."""
    from newslora.model.backbone import quiet_transformers

    with quiet_transformers():
        result = variants()[options.worker](options)
    result["peak_mb"] = peak_mb()
    print(json.dumps(result))


def peak_mb() -> float:
    """Return the most memory that this process had; of a GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**20
    # getrusage would tell the parent's peak where that was greater.
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def device_name() -> str:
    """Return what everything ran on."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def run_one(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure one variant in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--worker", name, "--folder", options.folder]
    for key in ("data", "backbone", "rows", "upper", "length", "rank"):
        command += [f"--{key}", str(getattr(options, key))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report(results: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row of medians for each variant, printed as a Markdown table."""
    bare = results.pop("matrix product")
    rate, stock = (statistics.median(r[key] for r in bare) for key in ("gflops", "torch_gflops"))
    rows = []
    for name, runs in results.items():
        seconds = statistics.median(r["seconds"] for r in runs)
        row = {"variant": name, "samples_per_second": runs[0]["samples"] / seconds}
        row["useful_tokens_per_second"] = runs[0]["tokens"] / seconds
        row["peak_mb"] = statistics.median(r["peak_mb"] for r in runs)
        if "flops" in runs[0]:
            row["linear_gflops"] = runs[0]["flops"] / seconds / 1e9
            row["share_of_matrix_rate"] = row["linear_gflops"] / rate
        rows.append(row)
    ours = rows[0]["samples_per_second"]
    print(f"\n{options.backbone} on {device_name()}: bare matrix product {rate:.0f} GFLOP/s (torch.mm {stock:.0f})")
    print(f"{options.repeats} runs each, medians; at newslora's rate the paper's {PAPER_ARTICLES:,} articles", end=" ")
    print(f"(6 epochs) take {PAPER_ARTICLES / ours:,.0f} s\n")
    print("| variant | articles/s | newslora is | useful tokens/s | peak MB | linear GFLOP/s (share of bare) |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        share = f"{row['linear_gflops']:.0f} ({row['share_of_matrix_rate']:.0%})" if "linear_gflops" in row else ""
        print(
            f"| {row['variant']} | {row['samples_per_second']:.1f} | {ours / row['samples_per_second']:.2f}× "
            f"| {row['useful_tokens_per_second']:.0f} | {row['peak_mb']:.0f} | {share} |"
        )
    return [{"matrix_gflops": rate, "torch_mm_gflops": stock}, *rows]


def draw(rows: list[dict[str, Any]], title: str, file: Path) -> None:
    """Draw the variants' rates as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([row["variant"] for row in rows], [row["samples_per_second"] for row in rows], color="#0072B2")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.margins(x=0.12)  # room for the longest bar's label
    axes.invert_yaxis()
    axes.set(xlabel="training rate (articles per second)", title=title)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Measure every variant in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="labelled table to train on (default: the packaged sample)")
    parser.add_argument("--backbone", default="minilm", choices=("minilm", SHAPE))
    parser.add_argument("--rows", type=int, default=640, help="training articles")
    parser.add_argument("--rank", type=int, default=8, help="of LoRA; alpha is twice as much (default %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="greatest number of tokens (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--upper", default="3-5", help="layers of the upper half, for the prefix cache")
    parser.add_argument("--only", nargs="*", default=[], help="variants to measure, by the start of their names")
    parser.add_argument("--output", default="train_speed", help="name of the JSON and PNG files, without ending")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    wanted = [n for n in variants() if not options.only or n == "matrix product" or n.startswith(tuple(options.only))]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in wanted}
    with tempfile.TemporaryDirectory() as folder:
        options.folder = backbone_folder(options.backbone, Path(folder))
        for _ in range(options.repeats):
            for name in wanted:
                results[name].append(run_one(name, options))
                print(name, results[name][-1], flush=True)
    rows = report(results, options)
    asked = {key: getattr(options, key) for key in ("backbone", "rows", "length", "repeats", "upper", "rank")}
    asked |= {"data": Path(options.data).name, "device": device_name()}
    Path(f"{options.output}.json").write_text(json.dumps({"options": asked, "rows": rows}, indent=2) + "\n")
    title = f"{options.backbone}, LoRA r={options.rank} on query and value, batch {BATCH}"
    draw(rows[1:], title, Path(f"{options.output}.png"))


if __name__ == "__main__":
    main()
