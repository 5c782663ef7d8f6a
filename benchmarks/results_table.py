"""The table of results: baselines, the paper's recipe and newslora's best, on the same rows, with paired tests.

    python benchmarks/results_table.py --train train.csv --test test.csv --rows 8000 --seeds 0,1,2,3,4 --folder results

Everything is run by the ``newslora`` command, one run at a time, each in a process of its own. What is finished is
kept: the same command goes on where it was interrupted, by Ctrl-C, SIGTERM or worse. The table in docs/results.md is
written anew, from what is finished, after every run; ``--table`` only writes it.

On ``--rows`` rows (another draw of them for each seed) every model is trained with each of the seeds. On all rows the
baselines without chance are fitted once, and newslora's best is trained with ``--all-seeds``.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

BEGIN, END = "<!-- results_table.py: begin -->", "<!-- results_table.py: end -->"
BEST = "newslora"
BEST_SETTINGS = (
    *("--lora.targets", "all-linear", "--lora.r", "16", "--lora.alpha", "32", "--model.head", "linear"),
    *("--train.lr", "7e-4", "--train.epochs", "2"),
)
TITLES = {
    BEST: "newslora's best",
    "paper-r16": "the paper's recipe, r = 16",
    "paper-r8": "the paper's recipe, r = 8",
    "probe": "linear probe on the frozen backbone",
    "fasttext": "fastText",
    "svm": "TF-IDF + linear SVM",
    "logistic": "TF-IDF + logistic regression",
    "majority": "commonest class",
}
QUICK_FIRST = ("majority", "svm", "logistic", "fasttext", "probe", BEST, "paper-r8", "paper-r16")
ON_ALL_ROWS = ("majority", "svm", "logistic", "fasttext", "probe", BEST)
HEAD = (
    *("model", "seeds", "accuracy", "95% interval (rows)", "sd (seeds)", "macro-F1"),
    *("difference from the first", "95% interval (rows)", "p (rows)", "p (seeds)", "finding"),
)


@dataclass(frozen=True)
class Job:
    """One folder to fill.

    Attributes:
        name: Of the model, as in ``TITLES``.
        folder: Where its runs go.
        limit: Training rows, or None for all.
        seeds: Such as ``0,1,2``; a single one makes a single run.
    """

    name: str
    folder: Path
    limit: int | None
    seeds: str

    @property
    def is_finished(self) -> bool:
        return (self.folder / ("seeds.json" if "," in self.seeds else "README.md")).is_file()

    def command(self, options: argparse.Namespace) -> list[str]:
        """Return the words that fill the folder, or go on filling it."""
        verb = ["train"] if self.name == BEST or self.name.startswith("paper") else ["baseline", self.name]
        if (self.folder / "config.yaml").is_file():
            if "," in self.seeds or verb == ["train"]:
                return ["newslora", *verb, "--resume", "--output", str(self.folder)]
            shutil.rmtree(self.folder)  # a baseline that was killed: nothing to go on from
        return ["newslora", *verb, *self._model(options), *self._data(options), "--output", str(self.folder)]

    def _model(self, options: argparse.Namespace) -> list[str]:
        backbone = ["--model.backbone", options.backbone]
        if self.name == BEST:
            return [options.best, *backbone] if options.best else [*BEST_SETTINGS, *backbone]
        return ["--preset", self.name, *backbone] if self.name.startswith("paper") else backbone

    def _data(self, options: argparse.Namespace) -> list[str]:
        # Few validation rows for few training rows, or scoring them each epoch would take as long as the training.
        few = ["--data.limit", str(self.limit), "--data.validation_share", str(options.validation_share)]
        limit = [] if self.limit is None else few
        seeds = ["--train.seeds" if "," in self.seeds else "--train.seed", self.seeds]
        return ["--data.train", options.train, "--data.test", options.test, *limit, *seeds]


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return everything to run, the quickest first."""
    subset = [Job(name, options.folder / str(options.rows) / name, options.rows, options.seeds) for name in QUICK_FIRST]
    whole = [
        Job(name, options.folder / "all" / name, None, options.all_seeds if name == BEST else "0")
        for name in ON_ALL_ROWS
    ]
    return [*subset, *whole]


def run(command: Sequence[str]) -> int:
    """Run a command; Ctrl-C and SIGTERM are passed on, and it ends when it has written its checkpoint."""
    child = subprocess.Popen([sys.executable, "-m", "newslora.cli.main", *command[1:]])

    def pass_on(number: int, _: FrameType | None) -> None:
        # From a terminal Ctrl-C reaches the child anyway; a second one would end it at once.
        if number == signal.SIGTERM or not sys.stdin.isatty():
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """Return ``newslora compare``'s comparison of finished folders with the first."""
    command = [sys.executable, "-m", "newslora.cli.main", "compare", *map(str, folders), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return dict(json.loads(done.stdout))


def table(finished: Sequence[Job]) -> list[str]:
    """Return a Markdown table of finished jobs, newslora's best first and the others held against it."""
    order = [job for name in TITLES for job in finished if job.name == name]
    if len(order) < 2:
        return ["Not finished yet."]
    results = compare([job.folder for job in order])
    pairs: list[dict[str, Any] | None] = [None, *results["pairs"]]
    lines = [f"| {' | '.join(HEAD)} |", f"|---{'|---:' * (len(HEAD) - 1)}|"]
    for job, row, pair in zip(order, results["runs"], pairs, strict=True):
        lines.append(f"| {' | '.join([TITLES[job.name], *_figures(row), *_difference(pair)])} |")
    return [
        *lines,
        "",
        f"{results['n']:,} test rows. {results['method']}.",
        *(f"\n{note}." for note in results["notes"]),
    ]


def _figures(row: dict[str, Any]) -> list[str]:
    spread = row["over_seeds"]
    return [
        str(len(row["seeds"]) or 1),
        f"{row['accuracy']:.4f}",
        _range(row["interval_95"]["accuracy"]),
        f"{spread['accuracy']['sd']:.4f}" if spread else "",
        f"{row['macro_f1']:.4f}",
    ]


def _difference(pair: dict[str, Any] | None) -> list[str]:
    if pair is None:
        return [""] * 5
    seeds, single = pair["over_seeds"], pair["mcnemar"]
    return [
        f"{pair['accuracy_difference']:+.4f}",
        _range(pair["interval_95"]["accuracy"], "+.4f"),
        _p(pair["bootstrap_p"]["accuracy"]) + (f" (McNemar {_p(single['p'])})" if single else ""),
        _p(seeds["accuracy"]["p"]) if seeds else "",
        ("yes" if pair["finding"] else "no") if pair["seeds_known"] else "no: one seed",
    ]


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def _range(bounds: Sequence[float], form: str = ".4f") -> str:
    return f"{bounds[0]:{form}} to {bounds[1]:{form}}"


def write(options: argparse.Namespace) -> None:
    """Write what is finished between the marks in the document; what stands around them is kept."""
    finished = [job for job in jobs(options) if job.is_finished]
    best = Path(options.best).name if options.best else " ".join(BEST_SETTINGS)
    shown = (
        f"python benchmarks/results_table.py --train {Path(options.train).name} --test {Path(options.test).name} "
        f"--rows {options.rows} --seeds {options.seeds} --all-seeds {options.all_seeds}"
        + (f" --best {Path(options.best).name}" if options.best else "")
    )
    parts = [
        BEGIN,
        f"Backbone `{options.backbone}`; newslora's best: `{best}`. Made by:\n\n    {shown}",
        f"### {options.rows:,} training rows, another draw for each seed ({options.seeds})",
        "\n".join(table([job for job in finished if job.limit is not None])),
        f"### All training rows (baselines once, newslora's best with seed {options.all_seeds})",
        "\n".join(table([job for job in finished if job.limit is None])),
        END,
    ]
    document = options.document
    text = document.read_text(encoding="utf-8") if document.is_file() else f"# Results\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(before + "\n\n".join(parts) + after, encoding="utf-8")


def main() -> None:
    """Run what is not finished, one after the other, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="training table")
    parser.add_argument("--test", required=True, help="test table")
    parser.add_argument("--rows", type=int, default=8000, help="training rows of the subset (default %(default)s)")
    parser.add_argument("--validation-share", type=float, default=0.01, help="on the subset (default %(default)s)")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="seeds on the subset (default %(default)s)")
    parser.add_argument("--all-seeds", default="0", help="seeds of newslora's best on all rows (default %(default)s)")
    parser.add_argument("--best", help="YAML file of newslora's best settings (default: those in this script)")
    parser.add_argument("--backbone", default="minilm", help="backbone of all models (default %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("results"), help="where the runs go (default %(default)s)")
    parser.add_argument("--document", type=Path, default=Path("docs/results.md"), help="default %(default)s")
    parser.add_argument("--only", nargs="*", default=[], choices=TITLES, help="models to run (default all)")
    parser.add_argument("--table", action="store_true", help="write the table of what is finished, run nothing")
    options = parser.parse_args()
    wanted = () if options.table else options.only or TITLES
    for job in jobs(options):
        if job.name in wanted and not job.is_finished:
            print(f"{job.name} on {job.limit or 'all'} rows, seeds {job.seeds}: {job.folder}", flush=True)
            status = run(job.command(options))
            if status:
                sys.exit(f"{job.name} ended with status {status}; the same command goes on")
            write(options)
    write(options)


if __name__ == "__main__":
    main()
