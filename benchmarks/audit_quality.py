"""How well `newslora audit` finds wrong labels, where the right ones are known.

    newslora audit --data noisy.csv --output suspicious.csv
    python benchmarks/audit_quality.py --ranking suspicious.csv --truth truth.csv --label label --clean clean_label

TRUTH holds the audited rows in the audited file's order, with the right label beside the given one, which the audit was
not shown. Printed are the average precision of the ranking by score, and the precision among the most suspicious.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score


def read(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranking", required=True, help="what the audit wrote")
    parser.add_argument("--truth", required=True, help="the same rows with the right labels")
    parser.add_argument("--label", default="label", help="column of the given label")
    parser.add_argument("--clean", default="clean_label", help="column of the right label")
    parser.add_argument("--top", type=int, default=1000, help="how many of the most suspicious rows")
    options = parser.parse_args()
    wrong = np.array([row[options.label] != row[options.clean] for row in read(options.truth)])
    ranking = read(options.ranking)
    if len(ranking) != len(wrong):
        raise SystemExit(f"{options.ranking}: is no ranking of the {len(wrong)} rows of {options.truth}")
    in_file = np.argsort(np.argsort([int(row["place"]) for row in ranking]))
    ranked = wrong[in_file]
    scores = [float(row["score"]) for row in ranking]
    flagged = ranked[[row["drop"] == "yes" for row in ranking]]
    print(
        f"{len(wrong):,} rows, {wrong.sum():,} wrong: average precision {average_precision_score(ranked, scores):.3f}, "
        f"precision among the first {options.top:,} {ranked[: options.top].mean():.3f}; "
        f"{len(flagged):,} flagged, {flagged.mean():.3f} of them wrong"
    )


if __name__ == "__main__":
    main()
