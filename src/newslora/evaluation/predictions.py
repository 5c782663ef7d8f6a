"""What runs predicted for the rows of one table, ready to be compared."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from newslora.errors import NewsloraError
from newslora.evaluation.baseline_state import read_baseline
from newslora.evaluation.card import read_record
from newslora.evaluation.scoring import score_run
from newslora.training.run_folder import RunFolder

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Predictions:
    """One run's answers; all of these have one entry a row.

    Attributes:
        run: The run's folder.
        source: The table's path or id.
        names: The run's labels, in its own order.
        places: Each row's line in its file.
        labels: True labels by name.
        predicted: Predicted labels by name.
        texts: Repaired texts; none where the answers were read from ``predictions.csv``.
    """

    run: Path
    source: str
    names: tuple[str, ...]
    places: list[str]
    labels: list[str]
    predicted: list[str]
    texts: list[str] | None = None


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: a run, a baseline, or one of these over several seeds.

    Attributes:
        name: As the user gave it.
        baseline: The baseline's name; ``None`` for a fine-tuned run.
        seeds: The seeds, empty for a single run.
        runs: Answers, one a seed in the seeds' order, or the single run's.
    """

    name: str
    baseline: str | None
    seeds: tuple[int, ...]
    runs: tuple[Predictions, ...]


def read_contender(path: Path, source: str | None = None, progress: Progress | None = None) -> Contender:
    """Read what a run, a baseline or a folder of several seeds predicted, or predict it now.

    Args:
        path: The folder.
        source: A labelled table that every run is to predict; what each was evaluated on last when not given.
        progress: Called with the number of articles done since the last call.

    Raises:
        NewsloraError: A run is missing, not finished, not evaluated, or the table cannot be read.
    """
    folder = RunFolder.open(path)
    seeds = folder.config().train.seeds or ()
    if folder.config().data.multi_label:
        raise NewsloraError(f"{path}: carries several labels an article; only runs with one are compared")
    if seeds and not folder.seeds_file.is_file():
        raise NewsloraError(f"{path}: not all of its seeds are trained; go on with --resume --output {path}")
    runs = [RunFolder.open(folder.seed(seed)) for seed in seeds] or [folder]
    answers = tuple(read_predictions(run) if source is None else predict(run, source, progress) for run in runs)
    baseline = str(read_baseline(runs[0].baseline)["baseline"]) if runs[0].is_baseline else None
    return Contender(str(path), baseline, seeds, answers)


def read_predictions(run: RunFolder) -> Predictions:
    """Read the labelled rows of a run's ``predictions.csv``.

    Raises:
        NewsloraError: The run was not evaluated, or the file is damaged.
    """
    file = run.path / "predictions.csv"
    source = read_record(run.evaluation_file).get("source")
    if source is None or not file.is_file():
        raise NewsloraError(f"{run.path}: was not evaluated; give --data FILE to evaluate all runs on it")
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            rows = [(row["place"], row["label"], row["predicted"]) for row in reader if row["label"]]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise NewsloraError(f"{file}: cannot be read; repeat newslora evaluate {run.path}") from error
    places, labels, predicted = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    names = tuple(name.removeprefix("p_") for name in reader.fieldnames or () if name.startswith("p_"))
    return Predictions(run.path, str(source), names, places, labels, predicted)


def predict(run: RunFolder, source: str, progress: Progress | None = None) -> Predictions:
    """Let a run predict a labelled table; nothing is written.

    Raises:
        NewsloraError: The table cannot be read, or the run is not finished.
    """
    scored = score_run(run, source, progress=progress)
    names, places = scored.names, [str(place) for place in scored.table.places]
    labels = [names[label] for label in scored.labels]
    predicted = [names[k] for k in scored.logits.argmax(axis=1)]
    return Predictions(run.path, source, names, places, labels, predicted, scored.texts)


def check_same_rows(runs: Sequence[Predictions]) -> None:
    """Refuse to compare answers about different rows.

    Raises:
        NewsloraError: The runs were evaluated on different files or rows, or on none with a label.
    """
    first = runs[0]
    if not first.labels:
        raise NewsloraError(f"{first.run}: no row of {first.source} has a label; give labelled rows by --data FILE")
    for run in runs[1:]:
        same_rows = (run.places, run.labels) == (first.places, first.labels)
        if not same_rows or Path(run.source).name != Path(first.source).name:
            each = " and ".join(f"{side.run} on {len(side.labels):,} rows of {side.source}" for side in (first, run))
            raise NewsloraError(f"evaluated on different rows: {each}; give --data FILE to evaluate all runs on it")
