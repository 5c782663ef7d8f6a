"""Train on wrong labels four ways and test on right ones: as they are, audited, smoothed, and with a robust loss.

    python benchmarks/noisy_labels.py --data noisy.csv --test test.csv --output noisy-labels

Every way gets the same rows, settings and seeds. The audit sees the noisy table alone and is made once. A run that
stands is not trained again, so the script may be stopped and started at will. Differences from training on the labels
as they are come with a paired t-test over the seeds and a 95% bootstrap interval over the test rows (means over seeds).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap, ttest_rel
from sklearn.metrics import accuracy_score

AS_IS = "as they are"
WAYS: dict[str, dict[str, str]] = {
    AS_IS: {},
    "audit's flagged rows dropped": {"data.drop": "{audit}"},
    "label smoothing 0.2": {"train.label_smoothing": "0.2"},
    "generalised cross-entropy": {"train.loss": "gce"},
}


def settings(options: argparse.Namespace, way: str, seed: int) -> dict[str, str]:
    """Return a run's settings: LoRA on the upper half, so the frozen lower half runs once an article."""
    own = {name: value.format(audit=options.output / "audit.csv") for name, value in WAYS[way].items()}
    if options.label:
        own["data.label"] = options.label
    return {
        "data.train": options.data,
        "data.test": options.test,
        "model.backbone": options.backbone,
        "model.head": "linear",
        "lora.targets": "all-linear",
        "lora.layers": options.layers,
        "train.epochs": str(options.epochs),
        "train.seed": str(seed),
        **own,
    }


def audit(options: argparse.Namespace) -> None:
    """Audit the noisy table, unless that was done before."""
    from newslora.cli.main import main as newslora

    file = options.output / "audit.csv"
    if not file.exists():
        command = ["audit", "--data", options.data, "--output", str(file), "--backbone", options.backbone]
        if newslora([*command, *(["--label", options.label] if options.label else [])]):
            raise SystemExit("the audit failed")


def predictions(options: argparse.Namespace, way: str, seed: int) -> np.ndarray:
    """Train one run unless it stands, and return which test rows it gets right, bool [rows]."""
    from newslora.config import load_config
    from newslora.workflow import train

    folder = options.output / f"{list(WAYS).index(way)}-seed{seed}"
    if not (folder / "evaluation.json").exists():
        print(f"{way}, seed {seed}", flush=True)
        train(load_config(overrides=settings(options, way, seed)), folder, resume=(folder / "config.yaml").exists())
    table = np.genfromtxt(folder / "predictions.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    right: np.ndarray = table["label"] == table["predicted"]
    told = json.loads((folder / "evaluation.json").read_text())["accuracy"]
    if accuracy_score(table["label"], table["predicted"]) != told:
        raise SystemExit(f"{folder}: evaluation.json and predictions.csv disagree; delete the folder")
    return right


def compare(right: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return a row for each way; ``right`` holds bool [seeds, rows] for each."""
    rows = []
    for way, ours in right.items():
        by_seed, theirs = ours.mean(axis=1), right[AS_IS]
        row: dict[str, Any] = {"way": way, "accuracies": by_seed.tolist(), "mean": by_seed.mean()}
        row["deviation"] = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
        if way != AS_IS:
            gain = ours.mean(axis=0) - theirs.mean(axis=0)
            interval = bootstrap((gain,), np.mean, n_resamples=9999, rng=np.random.default_rng(0)).confidence_interval
            row |= {"gain": gain.mean(), "gain_95": [interval.low, interval.high]}
            row["p_over_seeds"] = float(ttest_rel(by_seed, theirs.mean(axis=1)).pvalue) if len(by_seed) > 1 else None
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], seeds: int, articles: int) -> None:
    """Print a Markdown table."""
    print(f"\nAccuracy on {articles:,} test rows, {seeds} seeds\n")
    print("| training | mean | deviation over seeds | gain over as they are (95%, rows) | p (paired t, seeds) |")
    print("|---|---:|---:|---:|---:|")
    for row in rows:
        deviation = "" if row["deviation"] is None else f"{row['deviation']:.4f}"
        gain = f"{row['gain']:+.4f} ({row['gain_95'][0]:+.4f} to {row['gain_95'][1]:+.4f})" if "gain" in row else ""
        p = f"{row['p_over_seeds']:.2g}" if row.get("p_over_seeds") is not None else ""
        print(f"| {row['way']} | {row['mean']:.4f} | {deviation} | {gain} | {p} |")


def main() -> None:
    """Train what is missing and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="training table with wrong labels")
    parser.add_argument("--label", help="label column of both tables, where it is not found by itself")
    parser.add_argument("--test", required=True, help="test table with right labels")
    parser.add_argument("--output", type=Path, default=Path("noisy-labels"), help="folder (default %(default)s)")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--layers", default="3-5", help="layers with LoRA (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="*", default=[""], help="ways beside the first, by the start of their names")
    options = parser.parse_args()
    ways = [way for way in WAYS if way == AS_IS or way.startswith(tuple(options.only))]
    options.output.mkdir(parents=True, exist_ok=True)
    audit(options)
    right: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    for seed in options.seeds:  # seed by seed: whenever it is stopped, all ways have as many
        for way in ways:
            right[way].append(predictions(options, way, seed))
    rows = compare({way: np.array(parts) for way, parts in right.items()})
    show(rows, len(options.seeds), right[AS_IS][0].size)
    values = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    (options.output / "comparison.json").write_text(json.dumps({"options": values, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
