"""Runs on the same rows: a table with intervals, paired tests against the first run, and the rows they disagree on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from newslora.evaluation.metrics import bootstrap_intervals, macro_f1
from newslora.evaluation.paired import RESAMPLES, bootstrap_p, interval, mcnemar, over_seeds, resample, spread
from newslora.evaluation.predictions import Contender, Predictions, check_same_rows
from newslora.files import writing

SIGNIFICANT: Final = 0.05
# These give the same result from the same rows whatever the seed is.
_WITHOUT_CHANCE: Final = frozenset({"majority", "svm", "logistic", "probe"})
_METHOD: Final = (
    f"rows: bootstrap, {RESAMPLES:,} resamples drawn for all runs together, percentile interval, seed 0 (the interval "
    "of a single run is that of its evaluation); seeds: mean, standard deviation (n - 1) and Student's t over the seeds"
)
Draws = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class _Side:
    """A contender's figures.

    Attributes:
        contender: Who it is.
        right: Whether each run is right, bool [rows, runs].
        matrices: Confusion matrices, int64 [runs, labels, labels].
        draws: Accuracy and macro-F1, the mean over its runs, on every draw of rows, float64 [draws].
    """

    contender: Contender
    right: NDArray[np.bool_]
    matrices: NDArray[np.int64]
    draws: Draws

    @property
    def is_single(self) -> bool:
        return len(self.matrices) == 1

    @property
    def seeds_known(self) -> bool:
        """Whether it is known what another seed would change."""
        return not self.is_single or self.contender.baseline in _WITHOUT_CHANCE

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """Return accuracy and macro-F1, float64 [runs] each."""
        return {"accuracy": self.right.mean(axis=0), "macro_f1": macro_f1(self.matrices)}

    def row(self) -> dict[str, Any]:
        """Return the contender's row of the table."""
        figures = self.figures()
        drawn = {name: interval(draw) for name, draw in self.draws.items()}
        spreads = None if self.is_single else {name: spread(values.tolist()) for name, values in figures.items()}
        return {
            "run": self.contender.name,
            "baseline": self.contender.baseline,
            "seeds": list(self.contender.seeds),
            **{name: float(values.mean()) for name, values in figures.items()},
            "interval_95": _own_intervals(self.contender.runs[0]) if self.is_single else drawn,
            "over_seeds": spreads,
        }


def compare(contenders: Sequence[Contender]) -> dict[str, Any]:
    """Compare each contender with the first, on the same rows.

    A difference is a finding when it is beyond both the choice of rows (paired bootstrap of the accuracy, and McNemar's
    test for two single runs) and the choice of seeds (t), each at p < 0.05. Where a side has one seed only, although
    another would change it, that cannot be known, and no difference is a finding.

    Args:
        contenders: Two or more, from :func:`newslora.evaluation.predictions.read_contender`.

    Returns:
        Plain values, ready for JSON: ``source``, ``n``, ``runs`` (an object each), ``pairs`` (each but the first,
        against it), ``disagreements`` (number of rows), ``method`` and ``notes``.

    Raises:
        NewsloraError: The contenders were evaluated on different rows.
    """
    runs = [run for contender in contenders for run in contender.runs]
    check_same_rows(runs)
    sides = _sides(contenders)
    pairs = [_pair(sides[0], side) for side in sides[1:]]
    return {
        "source": runs[0].source,
        "n": len(runs[0].labels),
        "runs": [side.row() for side in sides],
        "pairs": pairs,
        "disagreements": len(disagreements(contenders)),
        "method": _METHOD,
        "notes": _notes(pairs),
    }


def disagreements(contenders: Sequence[Contender]) -> list[dict[str, str]]:
    """Return the rows on which contenders give different answers (over seeds: the commonest answer).

    Returns:
        One object a row: ``place``, ``label``, each contender's answer under its name, and ``text`` where it is known.
    """
    first = contenders[0].runs[0]
    names = [contender.name for contender in contenders]
    return [
        {"place": first.places[row], "label": first.labels[row], **dict(zip(names, given, strict=True))}
        | ({} if first.texts is None else {"text": first.texts[row]})
        for row, given in enumerate(zip(*map(_commonest, contenders), strict=True))
        if len(set(given)) > 1
    ]


def write_disagreements(contenders: Sequence[Contender], path: Path) -> None:
    """Write the rows of :func:`disagreements` as CSV."""
    text = [] if contenders[0].runs[0].texts is None else ["text"]
    columns = ["place", "label", *(contender.name for contender in contenders), *text]
    with writing(path) as staged, staged.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(disagreements(contenders))


def _own_intervals(run: Predictions) -> dict[str, list[float]]:
    # Draws depend on the labels' order: in the run's own they are those of its evaluation, to the last digit.
    return bootstrap_intervals(confusion_matrix(run.labels, run.predicted, labels=run.names))


def _commonest(contender: Contender) -> list[str]:
    answers = zip(*(run.predicted for run in contender.runs), strict=True)
    return [max(sorted(set(given)), key=given.count) for given in answers]


def _sides(contenders: Sequence[Contender]) -> list[_Side]:
    runs = [run for contender in contenders for run in contender.runs]
    names = sorted(set(chain.from_iterable(run.names for run in runs)))
    code = {name: number for number, name in enumerate(names)}
    truth = np.array([code[label] for label in runs[0].labels])
    predicted = np.array([[code[name] for name in run.predicted] for run in runs]).T
    matrices = np.stack([confusion_matrix(truth, column, labels=range(len(names))) for column in predicted.T])
    accuracy, f1 = resample(truth, predicted, len(names))
    sides, start = [], 0
    for contender in contenders:
        own = slice(start, start := start + len(contender.runs))
        draws = {"accuracy": accuracy[:, own].mean(axis=1), "macro_f1": f1[:, own].mean(axis=1)}
        sides.append(_Side(contender, predicted[:, own] == truth[:, None], matrices[own], draws))
    return sides


def _pair(first: _Side, other: _Side) -> dict[str, Any]:
    both_single = first.is_single and other.is_single
    before, after = first.figures(), other.figures()
    draws = {name: other.draws[name] - first.draws[name] for name in before}
    pair: dict[str, Any] = {
        "run": other.contender.name,
        "reference": first.contender.name,
        **{f"{name}_difference": float(after[name].mean() - before[name].mean()) for name in before},
        "interval_95": {name: interval(draw) for name, draw in draws.items()},
        "bootstrap_p": {name: bootstrap_p(draw) for name, draw in draws.items()},
        "mcnemar": mcnemar(first.right[:, 0], other.right[:, 0]) if both_single else None,
        "over_seeds": None if both_single else _seeds(first, other),
        "seeds_known": first.seeds_known and other.seeds_known,
    }
    return pair | {"finding": pair["seeds_known"] and max(_decisive(pair)) < SIGNIFICANT}


def _seeds(first: _Side, other: _Side) -> dict[str, Any]:
    paired = first.contender.seeds == other.contender.seeds
    before, after = first.figures(), other.figures()
    return {name: over_seeds(after[name].tolist(), before[name].tolist(), paired=paired) for name in before}


def _decisive(pair: dict[str, Any]) -> list[float]:
    further = pair["mcnemar"] or pair["over_seeds"]["accuracy"]
    return [pair["bootstrap_p"]["accuracy"], further["p"]]


def _notes(pairs: Sequence[dict[str, Any]]) -> list[str]:
    notes, alone = [], sum(not pair["seeds_known"] for pair in pairs)
    if alone:
        notes.append(
            f"no finding in {alone} of {len(pairs)} differences: one side has a single seed, and another seed might "
            "turn them, whatever p says of the rows; train both sides with --train.seeds 0,1,2,3,4"
        )
    if len(pairs) > 1:
        notes.append(f"{len(pairs)} comparisons with the first run: each p stands alone, not adjusted for their number")
    return notes
