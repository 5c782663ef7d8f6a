"""A run folder with everything that a report tells of, and text in it that means harm."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from tests.newsroom import articles

from newslora.evaluation.environment import save_environment
from newslora.evaluation.evaluate import evaluate_logits
from newslora.model.budget import Counts
from newslora.training.run_folder import RunFolder

NAMES = ("World", "Sports", "Business", "Sci/Tech")
HARM = "</script></td><script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>\"' {{ 7 * 7 }}"
LABEL = "'\"><script>harmed=1</script>"
SHIFT = {
    "seed": 0,
    "interval_method": "paired bootstrap",
    "variants": [
        {"name": "plain", "title": "as the run reads it", "about": "repaired", "n": 160, "changed": 0,
         "accuracy": 0.81, "interval_95": [0.75, 0.87]},
        {"name": "typos", "title": "typos", "about": "mistyped", "n": 160, "changed": 99, "accuracy": 0.7625,
         "interval_95": [0.7, 0.82], "against": "plain", "difference": -0.0475, "difference_95": [-0.08, -0.01]},
    ],
}  # fmt: skip

SLICES = [
    {"by": "length", "slice": "3 to 9 words", "n": 60, "accuracy": 0.7, "macro_f1": 0.69, "interval_95": {"accuracy": [0.57, 0.8]}},
    {"by": "length", "slice": "10 to 21 words", "n": 100, "accuracy": 0.85, "macro_f1": 0.85, "interval_95": {"accuracy": [0.77, 0.91]}},
    {"by": "filter", "slice": "near_duplicate", "n": 9, "accuracy": 1.0, "macro_f1": 1.0, "interval_95": {"accuracy": [0.7, 1.0]}},
]  # fmt: skip


def data_report(source: str = "news.csv", example: str = "The match was lost.") -> dict[str, Any]:
    shares = dict.fromkeys(NAMES, 0.25)
    row = {"place": f"{source}:7", "text": example}
    return {
        "tables": {
            "train": {"source": source, "columns": {"text": ["title", "body"], "label": "topic"}, "rows": 1200, "repaired": 300}
        },
        "rows": {"train": 1100, "validation": 58, "test": 160},
        "classes": {"train": shares, "validation": shares, "test": shares},
        "filters": {"empty": {"rows": 0, "examples": []}, "near_duplicate": {"rows": 42, "examples": [row]}},
        "leaks": {"test in train": {"rows": 3, "examples": []}},
    }  # fmt: skip


def add_steps(run: RunFolder) -> None:
    lines = [{"step": i, "epoch": i / 40, "train_loss": 1.4 - i / 100, "lr": 1e-3} for i in range(1, 81)]
    run.steps_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = {"train_loss": 0.9, "train_accuracy": 0.7, "val_accuracy": 0.75, "val_macro_f1": 0.74, "lr": 1e-3}
    epochs = [row | {"epoch": epoch, "val_loss": 1.0 / epoch, "seconds": 200.0} for epoch in (1, 2)]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in epochs))


def evaluate(run: RunFolder, output: Path | None = None, **changed: Any) -> dict[str, Any]:
    """Evaluate 160 rows of which about one in five is wrong, some with confidence."""
    generator, names = np.random.default_rng(0), changed.get("names", NAMES)
    labels = np.arange(160) % len(names)
    taken_for = np.where(generator.random(160) < 0.2, (labels + 1) % len(names), labels)
    logits = 2.5 * np.eye(len(names))[taken_for]
    logits += generator.normal(scale=0.8, size=logits.shape)
    texts = [text for _, text in articles(160)]
    random.Random(0).shuffle(texts)
    about: dict[str, Any] = {"names": names, "places": range(2, 162), "texts": texts, "source": "data/test.csv"}
    about |= {
        "counts": Counts(665_092, 23_378_308),
        "extra": {"shift": SHIFT, "slices": SLICES, "slice_interval_method": "Wilson"},
    }
    return evaluate_logits(run, logits, labels.tolist(), **(about | {"output": output} | changed))


def make_reported_run(small_run: RunFolder, folder: Path, **changed: Any) -> RunFolder:
    """Return a copy of the small run with curves, the data's story, an evaluation and its report."""
    run = RunFolder(Path(shutil.copytree(small_run.path, folder)))
    add_steps(run)
    (run.path / "data_report.json").write_text(json.dumps(data_report()))
    save_environment(run)
    evaluate(run, **changed)
    return run


def make_harmful_run(small_run: RunFolder, folder: Path) -> RunFolder:
    """Return a reported run in which every text that comes from a user tries to break out of the page."""
    run = make_reported_run(small_run, folder)
    (run.path / "data_report.json").write_text(json.dumps(data_report(f"{HARM}.csv", HARM)))
    names = (LABEL, *NAMES[1:])
    evaluate(run, names=names, texts=[f"{i} {HARM}" for i in range(160)], source=f"{HARM}.csv")
    return run
