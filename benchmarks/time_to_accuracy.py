"""Seconds of training until a validation accuracy is reached: newslora beside transformers' Trainer with peft.

Run on a quiet machine; runs that stand in OUTPUT.jsonl are not repeated, so it may be stopped and started at will:

    python benchmarks/time_to_accuracy.py --data TRAIN.csv --output time_to_accuracy

Every way trains on the same rows, starts from the same backbone (MiniLM) and is measured on the same validation rows,
which no one trains on. The clock runs for all that a way needs before and between its steps (newslora's warm head
included) and stands while validation rows are scored. (a) is the paper's recipe: rank 8 on query and value, padded to
128, learning rate 2e-4, 6 epochs, cosine. (b) and (c), dynamic padding and ``group_by_length``, and newslora (rank 8 on
all linear modules but the first two layers') train one epoch with cosine decay at each learning rate of one small grid;
with ``--horizon`` that epoch is as many of the rows, drawn once for all, so that the rate falls sooner. TF-IDF with a
linear SVM and fastText stand beside them.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
GRID = (5e-4, 1e-3, 2e-3)
OURS: dict[str, Any] = {
    "model": {"head": "linear"},
    "lora": {"targets": "all-linear", "r": 8, "alpha": 16, "layers": "2-5"},
    "train": {"epochs": 1, "batch_size": BATCH},
}


class Watch:
    """The clock, and the validation accuracies it has seen; says when all targets are reached."""

    def __init__(self, score: Callable[[], float], targets: list[float]) -> None:
        self.score, self.targets = score, targets
        self.seconds = 0.0
        self.seen: list[dict[str, float]] = []
        self.reached: dict[str, float] = {}
        self.started = time.perf_counter()

    def check(self, articles: int) -> bool:
        """Score the validation rows with the clock standing; return whether the last target is reached."""
        self.seconds += time.perf_counter() - self.started
        accuracy = self.score()
        self.seen.append({"articles": articles, "seconds": self.seconds, "accuracy": accuracy})
        print(f"  {articles:>7,} articles {self.seconds:8.1f} s {accuracy:.4f}", flush=True)
        for target in self.targets:
            if accuracy >= target:
                self.reached.setdefault(str(target), self.seconds)
        self.started = time.perf_counter()
        return len(self.reached) == len(self.targets)


def prepared(options: argparse.Namespace) -> Any:
    """Return the rows that every way trains on and is scored on."""
    from newslora.config import RunConfig
    from newslora.data.prepare import prepare
    from newslora.model.backbone import load_tokenizer

    settings = {"train": options.data, "limit": options.rows}
    return prepare(RunConfig.from_dict({"data": settings}).data, load_tokenizer("minilm"), seed=0)


def shortened(data: Any, rows: int | None) -> Any:
    """Return the data with as many training rows at most."""
    from dataclasses import replace

    count = len(data.train.labels)
    drawn = np.random.default_rng(0).permutation(count)[: rows or count]
    return replace(data, train=data.train.take(np.sort(drawn)))


def newslora(data: Any, options: argparse.Namespace, lr: float) -> Watch:
    """Train with newslora's stepper and schedule, one epoch."""
    from accelerate import Accelerator

    from newslora.config import RunConfig
    from newslora.model.classifier import build_model, predict_logits
    from newslora.model.memory import keep_memory
    from newslora.model.warm_head import warm_head
    from newslora.training.plan import StepPlan
    from newslora.training.schedule import build_optimizer, learning_rate
    from newslora.training.stepping import Stepper

    keep_memory()
    config = RunConfig.from_dict(OURS | {"train": OURS["train"] | {"lr": lr}})
    model = build_model(config, data.names)

    def score() -> float:
        found = predict_logits(model, data.validation.encoded).argmax(axis=1)
        model.train()
        return float((found == np.array(data.validation.labels)).mean())

    watch = Watch(score, options.targets)
    warm_head(model, data.train.encoded, data.train.labels, 0)
    if watch.check(0):
        return watch
    step = Stepper(
        Accelerator(cpu=True), model, build_optimizer(model.trainable_parameters(), config.train), config.train, data
    )
    steps = StepPlan(config.train, data.train.encoded.lengths, 1).steps(0)
    rate = learning_rate(config.train, len(steps))
    for number, batches in enumerate(steps, start=1):
        step(batches, rate(number - 1))
        look = number % options.every == 0 or number == len(steps)
        if look and (watch.check(number * BATCH) or watch.seconds > options.cap):
            break
    return watch


def trainer(data: Any, options: argparse.Namespace, lr: float, padding: str, sampling: str, epochs: int) -> Watch:
    """Train with transformers' Trainer on peft's model, as their documentation shows."""
    import tempfile

    import peft
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from newslora.model.backbone import load_tokenizer, locate

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(locate("minilm"), num_labels=len(data.names))
    lora = peft.LoraConfig(
        task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"], modules_to_save=["pooler"]
    )
    adapted = peft.get_peft_model(model, lora)
    watch = Watch(lambda: stock_accuracy(adapted, data.validation), options.targets)

    class Check(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.started = time.perf_counter()

        def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
            if state.global_step % options.every == 0 or state.global_step == state.max_steps:
                control.should_training_stop = watch.check(state.global_step * BATCH) or watch.seconds > options.cap

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=lr,
            lr_scheduler_type="cosine",
            train_sampling_strategy=sampling,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        collator = DataCollatorWithPadding(load_tokenizer("minilm"), padding=padding, max_length=128)
        Trainer(adapted, arguments, collator, stock_rows(data.train), callbacks=[Check()]).train()
    return watch


def stock_rows(split: Any) -> list[dict[str, Any]]:
    """Return a split as the rows that a Trainer takes."""
    encoded, rows = split.encoded, []
    for row, label in enumerate(split.labels):
        ids = encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]].tolist()
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label, "length": len(ids)})
    return rows


def stock_accuracy(model: Any, split: Any) -> float:
    """Score a padded model; only its accuracy is wanted, the clock stands meanwhile."""
    import torch

    rows = sorted(stock_rows(split), key=lambda row: row["length"])
    right = 0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            width = part[-1]["length"]
            ids = torch.tensor([row["input_ids"] + [0] * (width - row["length"]) for row in part])
            mask = torch.tensor([row["attention_mask"] + [0] * (width - row["length"]) for row in part])
            found = model(input_ids=ids, attention_mask=mask).logits.argmax(dim=1)
            right += int((found == torch.tensor([row["labels"] for row in part])).sum())
    model.train()
    return right / len(rows)


def svm(data: Any, options: argparse.Namespace) -> Watch:
    """TF-IDF of words and word pairs with a linear SVM."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2), LinearSVC(C=0.5))
    watch = Watch(lambda: model.score(data.validation.texts, data.validation.labels), options.targets)
    model.fit(data.train.texts, data.train.labels)
    watch.check(len(data.train.labels))
    return watch


def fasttext(data: Any, options: argparse.Namespace) -> Watch:
    """fastText with its authors' settings for AG News; the epochs are those that suit some thousands of rows."""
    from newslora.evaluation.baseline_state import import_fasttext, train_fasttext

    library, held_out, fits = import_fasttext(), data.validation, []
    watch = Watch(
        lambda: float((fits[-1].logits(held_out.texts, held_out.encoded).argmax(axis=1) == held_out.labels).mean()),
        options.targets,
    )
    fits.append(train_fasttext(library, data.train.texts, data.train.labels, len(data.names), 0, 25))
    watch.check(len(data.train.labels))
    return watch


Way = Callable[[Any, argparse.Namespace], Watch]


def ways(horizon: int | None) -> dict[str, Way]:
    """Return what is measured, by name, in the order of running; ``horizon`` limits the one-epoch ways' rows."""
    made: dict[str, Way] = {"TF-IDF + linear SVM": svm, "fastText": fasttext}
    epoch = "" if horizon is None else f", {horizon} rows"
    made |= {f"newslora, lr {lr:g}{epoch}": lambda d, o, lr=lr: newslora(shortened(d, horizon), o, lr) for lr in GRID}
    peers = {
        "c: Trainer+peft, group_by_length": ("longest", "group_by_length"),
        "b: Trainer+peft, dynamic": ("longest", "random"),
    }
    for name, (padding, sampling) in peers.items():
        for lr in GRID:
            made[f"{name}, lr {lr:g}{epoch}"] = lambda d, o, lr=lr, p=padding, s=sampling: trainer(
                shortened(d, horizon), o, lr, p, s, 1
            )
    made["a: Trainer+peft, the paper's recipe"] = lambda d, o: trainer(d, o, 2e-4, "max_length", "random", 6)
    return made


def report(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table: seconds to each target, of those that reached it, and the best accuracy seen."""
    targets = rows[0]["targets"]
    print("\n| way | " + " | ".join(f"seconds to {t}" for t in targets) + " | best accuracy seen | after seconds |")
    print("|---|" + "---:|" * (len(targets) + 2))
    for row in rows:
        cells = [
            f"{row['reached'][str(t)]:.0f}" if str(t) in row["reached"] else f"> {row['seconds']:.0f}" for t in targets
        ]
        best = max(row["seen"], key=lambda seen: seen["accuracy"])
        print(f"| {row['way']} | {' | '.join(cells)} | {best['accuracy']:.4f} | {best['seconds']:.0f} |")


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw validation accuracy over seconds of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for row, style in zip(rows, ["-", "--", "-.", ":"] * len(rows), strict=False):
        seen = row["seen"]
        axes.plot([s["seconds"] for s in seen], [s["accuracy"] for s in seen], style, marker=".", label=row["way"])
    axes.set(xlabel="training time (seconds)", ylabel="validation accuracy", title="Time to accuracy", ylim=(0.8, None))
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(0, None)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(file, dpi=150)


def main() -> None:
    """Measure every way that does not stand in the output yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="labelled table to train on (default: the packaged sample)")
    parser.add_argument("--rows", type=int, help="training rows at most (default: all)")
    parser.add_argument("--horizon", type=int, help="training rows of the ways that train one epoch (default: all)")
    parser.add_argument("--targets", type=float, nargs="*", default=[0.90], help="validation accuracies to reach")
    parser.add_argument("--every", type=int, default=50, help="steps between two looks at the validation rows")
    parser.add_argument("--cap", type=float, default=3600, help="seconds of training after which a way is given up")
    parser.add_argument("--only", nargs="*", default=[""], help="ways to measure, by the start of their names")
    parser.add_argument("--output", default="time_to_accuracy", help="name of the JSONL and PNG files, without ending")
    options = parser.parse_args()
    file = Path(f"{options.output}.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    data = prepared(options)
    for name, way in ways(options.horizon).items():
        if name in [row["way"] for row in rows] or not name.startswith(tuple(options.only)):
            continue
        print(name, flush=True)
        watch = way(data, options)
        rows.append(
            {
                "way": name,
                "targets": options.targets,
                "reached": watch.reached,
                "seen": watch.seen,
                "seconds": watch.seconds,
            }
        )
        with file.open("a") as out:
            out.write(json.dumps(rows[-1]) + "\n")
    report(rows)
    draw(rows, file.with_suffix(".png"))


if __name__ == "__main__":
    main()
