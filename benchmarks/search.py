"""What searching, shrinking, sharing out ranks and fusing bring on AG News with MiniLM.

Run each part on a quiet machine; runs that stand in --output are not repeated, and begun ones go on:

    python benchmarks/search.py sweep      --data TRAIN.csv --test TEST.csv --output OUT
    python benchmarks/search.py grid       --data TRAIN.csv --test TEST.csv --output OUT
    python benchmarks/search.py distill    --data TRAIN.csv --test TEST.csv --output OUT --teacher RUN
    python benchmarks/search.py allocation --data TRAIN.csv --test TEST.csv --output OUT
    python benchmarks/search.py fuse       --data TRAIN.csv --test TEST.csv --output OUT

Everything is chosen on validation rows, set aside from the training table; the test table is read once by each
final run. OUT/PART.json holds the figures, with the number of rows and 95% intervals over the rows.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
SPACE = {
    "lora.targets": [["query", "value"], ["attention"], ["all-linear"]],
    "lora.r": [4, 8, 16, 32],
    "lora.alpha/r": [1, 2, 4],
    "model.head": ["full", "lora", "linear"],
    "train.lr": {"low": 1e-4, "high": 5e-3, "log": True},
    "train.warm_head": [True, False],
    "train.batch_size": [16, 32],
}
GOOD = {"lora.targets": ["all-linear"], "lora.r": 16, "lora.alpha": 32, "model.head": "linear", "train.lr": 5e-4}


def base(options: argparse.Namespace, **changes: Any) -> Any:
    """Return the settings that all runs of a part share, dotted names with ``__`` for the dot."""
    from newslora.config import RunConfig, change

    values = {"data.train": options.data, "data.test": options.test, "data.limit": options.rows}
    values |= {"model.backbone": "minilm", "train.epochs": options.epochs}
    return change(RunConfig(), values | {name.replace("__", "."): v for name, v in changes.items()}, "benchmark")


def trained(config: Any, path: Path) -> Figures:
    """Train a run unless it stands already, and return its figures on validation and test rows."""
    from newslora.training.run_folder import RunFolder
    from newslora.workflow import train

    if not (path / "evaluation.json").exists():
        train(config, path, resume=(path / "config.yaml").exists())
    return figures(RunFolder.open(path))


def figures(run: Any) -> Figures:
    """Return a finished run's figures."""
    results = json.loads(run.evaluation_file.read_text(encoding="utf-8"))
    best = max(run.metrics(), key=lambda row: row["val_macro_f1"], default={"val_accuracy": None})
    return {
        "validation": best["val_accuracy"],
        "test": results["accuracy"],
        "interval_95": results["interval_95"]["accuracy"],
        "n": results["n"],
        "parameters": results["trainable_parameters"],
    }


def sweep(options: argparse.Namespace) -> Figures:
    """Forty trials against the preset paper-r8 at the same rows and epochs, several seeds of each."""
    import yaml

    from newslora.config import RunConfig, change, load_config
    from newslora.search.space import read_space
    from newslora.search.sweep import sweep as search

    folder = options.output / "sweep"
    folder.mkdir(parents=True, exist_ok=True)
    tree = base(options).model_dump(mode="json") | {"search": SPACE}
    (folder / "space.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    start = time.perf_counter()
    search(read_space(folder / "space.yaml", None, {}), folder / "trials", trials=options.trials, report=print)
    sides = {"best": load_config(folder / "trials" / "best.yaml"), "paper-r8": load_config(preset="paper-r8")}
    common = {name: getattr(base(options).data, name) for name in ("train", "test", "limit")}
    common_values = {f"data.{name}": value for name, value in common.items()}
    common_values |= {"model.backbone": "minilm", "train.epochs": options.epochs}
    found: Figures = {"seconds": time.perf_counter() - start}
    for name, settings in sides.items():
        config: RunConfig = change(settings, common_values, "benchmark")
        found[name] = seeds(config, folder / name, options)
    return found


def seeds(config: Any, folder: Path, options: argparse.Namespace) -> list[Figures]:
    """Train settings under each seed."""
    from newslora.config import change

    return [trained(change(config, {"train.seed": s}, "benchmark"), folder / f"seed{s}") for s in range(options.seeds)]


def grid(options: argparse.Namespace) -> Figures:
    """Walk the preset paper-grid on MiniLM."""
    from newslora.search.space import read_space
    from newslora.search.sweep import sweep as search

    settings = {"data.train": options.data, "data.test": options.test, "data.limit": str(options.rows)}
    settings |= {"model.backbone": "minilm", "train.epochs": str(options.epochs)}
    folder = options.output / "grid"
    board = search(read_space(None, "paper-grid", settings), folder, report=print)
    return {"table": (folder / "table.md").read_text(encoding="utf-8"), "trials": len(board.done())}


def distill(options: argparse.Namespace) -> Figures:
    """Half of a teacher's layers, taught and on labels alone, by accuracy and by speed."""
    from newslora.config import change
    from newslora.search.students import student_config

    if options.teacher is None:
        raise SystemExit("--teacher RUN: give a trained run")
    from newslora.training.run_folder import RunFolder

    teacher = RunFolder.open(options.teacher)
    layers = options.layers
    # The teacher's rate was a choice for its own depth: a student, with fewer layers to move, takes a higher one.
    common = {"data.train": options.data, "data.test": options.test, "train.epochs": str(options.epochs)}
    common |= {"train.lr": str(options.lr)} | ({} if options.rows is None else {"data.limit": str(options.rows)})
    taught = student_config(teacher.path, layers=layers, unlabelled=options.unlabelled, overrides=common)
    alone = change(taught, {"distill.teacher": None, "distill.unlabelled": None}, "benchmark")
    found: Figures = {"teacher": _tested(teacher, options)}
    for name, config in (("taught", taught), ("labels alone", alone)):
        found[name] = seeds(config, options.output / "distill" / name.replace(" ", "-"), options)
    student = options.output / "distill" / "taught" / "seed0"
    return found | {"articles_per_second": speeds(options, {"teacher": teacher.path, "student": student})}


def _tested(run: Any, options: argparse.Namespace) -> Figures:
    from newslora.evaluation.evaluate import evaluate_run

    results = evaluate_run(run, str(options.test), options.output / "distill" / "teacher")
    return {"test": results["accuracy"], "interval_95": results["interval_95"]["accuracy"], "n": results["n"]}


def speeds(options: argparse.Namespace, runs: dict[str, Path], repeats: int = 5) -> dict[str, float]:
    """Return articles a second of ``predict`` on the test table, the best of several turns."""
    from newslora.config import DataConfig
    from newslora.data.sources import read_table
    from newslora.inference.classifier import NewsClassifier
    from newslora.model.memory import keep_memory

    keep_memory()
    texts = read_table(str(options.test), DataConfig()).texts[:2000]
    classifiers = {name: NewsClassifier.load(path) for name, path in runs.items()}
    best = dict.fromkeys(runs, 0.0)
    for classifier in classifiers.values():
        classifier.predict_proba(texts[:64])
    for _ in range(repeats):
        for name, classifier in classifiers.items():
            start = time.perf_counter()
            classifier.predict_proba(texts)
            best[name] = max(best[name], len(texts) / (time.perf_counter() - start))
    return best


def allocation(options: argparse.Namespace) -> Figures:
    """Ranks shared out by gradients at a quarter of the parameters, beside uniform ones at a quarter and at all."""
    from newslora.config import change

    good = change(base(options), GOOD, "benchmark")
    sides = {
        "uniform r=16": {},
        "uniform r=4": {"lora.r": 4, "lora.alpha": 8},
        "gradient r=4": {"lora.r": 4, "lora.alpha": 8, "lora.allocation": "gradient"},
    }
    folder = options.output / "allocation"
    return {
        name: seeds(change(good, changes, "benchmark"), folder / name.replace(" ", "-").replace("=", ""), options)
        for name, changes in sides.items()
    }


def fuse(options: argparse.Namespace) -> Figures:
    """Two adapters, of World and Sports and of Business and Sci/Tech, as one, beside one adapter of all rows."""
    from newslora.config import change
    from newslora.search.fuse import fuse as combine
    from newslora.training.run_folder import RunFolder

    folder = options.output / "fuse"
    tables = _halves(options, folder)
    good = change(base(options), GOOD, "benchmark")
    # The test rows too with labels by name: integers would be counted in the order of the run's own names.
    whole = change(good, {"data.train": str(tables["all"]), "data.test": str(tables["test"])}, "benchmark")
    found: Figures = {"one of all": trained(whole, folder / "all")}
    for i in (0, 1):
        config = change(good, {"data.train": str(tables[f"half{i}"]), "data.test": None}, "benchmark")
        if not (folder / f"half{i}" / "README.md").exists():
            from newslora.workflow import train

            train(config, folder / f"half{i}", resume=(folder / f"half{i}" / "config.yaml").exists())
    runs = [folder / "half0", folder / "half1"]
    for method in ("weighted", "svd", "ties", "dare", "learned"):
        path = folder / method
        if not (path / "README.md").exists():
            combine(runs, path, method, data=str(tables["few"]))
        found[method] = _evaluated(RunFolder.open(path), tables["test"])
    return found


def _evaluated(run: Any, table: Path) -> Figures:
    from newslora.evaluation.evaluate import evaluate_run

    results = evaluate_run(run, str(table), run.path / "test")
    return {"test": results["accuracy"], "interval_95": results["interval_95"]["accuracy"], "n": results["n"]}


def _halves(options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Write the tables, labels by name: half of the classes each, 400 further rows of all, all, and the test rows."""
    from newslora.config import DataConfig
    from newslora.data.labels import encode_labels, label_names
    from newslora.data.sources import read_table

    rows = {}
    for side, source in (("train", options.data), ("test", options.test)):
        table = read_table(str(source), DataConfig())
        names = label_names(table)
        rows[side] = [(names[c], text) for c, text in zip(encode_labels(table, names), table.texts, strict=True)]
    few, rest = rows["train"][:400], rows["train"][400:]
    parts: dict[str, Callable[[str], bool]] = {
        "half0": lambda name: name in names[:2],
        "half1": lambda name: name not in names[:2],
        "all": lambda _: True,
    }
    written = {key: _write(folder / f"{key}.csv", (r for r in rest if keep(r[0]))) for key, keep in parts.items()}
    return written | {"few": _write(folder / "few.csv", few), "test": _write(folder / "test.csv", rows["test"])}


def _write(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("label", "text"), *rows])
    return path


PARTS = {"sweep": sweep, "grid": grid, "distill": distill, "allocation": allocation, "fuse": fuse}


def main() -> None:
    """Measure one part and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=6000, help="training rows (distill: all when 0)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the students")
    parser.add_argument("--unlabelled")
    options = parser.parse_args()
    options.rows = options.rows or None
    found = PARTS[options.part](options)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"{options.part}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
