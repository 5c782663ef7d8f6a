"""Which rows of a labelled table are probably labelled wrongly: the most suspicious row first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from newslora.config import DataConfig
from newslora.data.audit_file import Verdict
from newslora.data.cleaning import Cleaner
from newslora.data.duplicates import first_near, normalise
from newslora.data.encoding import encode
from newslora.data.frame import shown
from newslora.data.labels import encode_labels, label_names
from newslora.data.sources import Table, read_table
from newslora.errors import NewsloraError
from newslora.evaluation.card import read_record
from newslora.evaluation.suspicion import METHODS, Judged, judge, judge_known
from newslora.model.backbone import load_tokenizer
from newslora.model.classifier import load_model, predict_logits
from newslora.model.embedding import embed
from newslora.model.temperature import load_temperature, probabilities
from newslora.training.run_folder import RunFolder

Progress = Callable[[int], None]
FLAGGED: Final = 0.5
"""Score from which on a label is more probably wrong than right."""


@dataclass(frozen=True)
class Audit:
    """A judged table.

    Attributes:
        source: Path or hub id.
        names: The classes' names.
        verdicts: A verdict a row, most suspicious first.
        conflicts: Groups of rows that nearly repeat each other under different labels, most suspicious first.
        summary: ``rows``, ``flagged``, ``estimated_wrong``, ``conflicts``, ``how`` and ``trained_on``
            (how many of the rows stand in the run's training file; None without a run or where that is gone).
    """

    source: str
    names: tuple[str, ...]
    verdicts: list[Verdict]
    conflicts: list[list[Verdict]]
    summary: dict[str, Any]


@dataclass(frozen=True)
class _Rows:
    table: Table
    names: tuple[str, ...]
    labels: np.ndarray
    texts: list[str]


def audit_alone(
    source: str,
    data: DataConfig,
    *,
    backbone: str = "minilm",
    method: str = "newslora",
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Judge a table by itself: no row of it is known to be right.

    Args:
        source: A labelled table: a file, a hub data set's id, or ``sample``.
        data: How to read it.
        backbone: Encoder whose sentence embeddings tell which articles are alike; it stays frozen.
        method: ``newslora`` or ``cleanlab``; see :mod:`newslora.evaluation.suspicion`.
        seed: Of the folds.
        progress: Called with the number of articles embedded since the last call.

    Raises:
        NewsloraError: The table cannot be read, has no labels, or has one row only of a class; no such backbone
            or method; or cleanlab is not installed.
    """
    if method not in METHODS:
        raise NewsloraError(f"--method {method}: unknown method; there are {', '.join(METHODS)}")
    table = read_table(source, data, split=data.train_split)
    names = label_names(table)
    rows = _repair(table, names, encode_labels(table, names), Cleaner(data.drop_agency))
    _check_classes(rows)
    tokenizer = load_tokenizer(backbone)
    encoded = encode(rows.texts, tokenizer, data.max_length)
    features = embed(backbone, None, encoded, int(tokenizer.pad_token_id or 0), progress)
    how = f"the table alone, {METHODS[method]}, on sentence embeddings of {backbone}"
    return _rank(rows, judge(method, features, rows.labels, len(names), seed), how)


def audit_with_run(run: RunFolder, source: str, data: DataConfig, progress: Progress | None = None) -> Audit:
    """Judge a table by a run that was trained on other, trusted rows: by its calibrated probabilities.

    Args:
        run: A trained run.
        source: A labelled table, as for :func:`audit_alone`.
        data: How to read it.
        progress: Called with the number of articles classified since the last call.

    Raises:
        NewsloraError: The table cannot be read, has no labels, or has one that the run does not know.
    """
    if run.config().data.multi_label:
        raise NewsloraError(f"{run.path}: carries several labels an article; only tables with one are audited")
    model = load_model(run.adapter)
    table = read_table(source, data, split=data.train_split)
    base = read_record(run.path / "data_report.json").get("label_base")
    labels = encode_labels(table, model.names, base)
    rows = _repair(table, model.names, labels, Cleaner.load(run.adapter / "cleaner.json"))
    logits = predict_logits(model, encode(rows.texts, model.tokenizer, model.max_length), progress)
    temperature = load_temperature(run.adapter)
    judged = judge_known(probabilities(logits, temperature), rows.labels)
    audit = _rank(rows, judged, f"the run {run.path.resolve().name} at temperature {temperature:.2f}")
    audit.summary["trained_on"] = _known_rows(run, rows.texts)
    return audit


def _repair(table: Table, names: tuple[str, ...], labels: Sequence[int], cleaner: Cleaner) -> _Rows:
    return _Rows(table, names, np.array(labels), [cleaner.repair(text) for text in table.texts])


def _check_classes(rows: _Rows) -> None:
    counts = np.bincount(rows.labels)
    if 1 in counts:
        row = int(np.flatnonzero(counts[rows.labels] == 1)[0])
        alone = f"is the only row labelled {shown(rows.names[rows.labels[row]])}, so nothing else shows it"
        raise NewsloraError(f"{rows.table.source}:{rows.table.places[row]}: {alone}; give two or more, or take it out")


def _rank(rows: _Rows, judged: Judged, how: str) -> Audit:
    groups = _conflicts(rows)
    twins = {row: group for group in groups for row in group}
    order = np.argsort(-judged.scores, kind="stable").tolist()
    made = {row: _verdict(rows, judged, row, twins.get(row, ())) for row in order}
    rank = {row: place for place, row in enumerate(order)}
    groups.sort(key=lambda group: min(rank[row] for row in group))
    summary = {
        "source": rows.table.source,
        "rows": len(order),
        "flagged": sum(verdict.drop for verdict in made.values()),
        "estimated_wrong": round(float(judged.scores.sum())),
        "conflicts": len(groups),
        "how": how,
        "trained_on": None,
    }
    conflicts = [[made[row] for row in group] for group in groups]
    return Audit(rows.table.source, rows.names, list(made.values()), conflicts, summary)


def _conflicts(rows: _Rows) -> list[list[int]]:
    """Return the groups of near-duplicates that do not agree on a label, each in the table's order."""
    groups: dict[int, list[int]] = {}
    for row, first in enumerate(first_near(rows.texts).tolist()):
        groups.setdefault(first, []).append(row)
    return [group for group in groups.values() if len({int(rows.labels[row]) for row in group}) > 1]


def _verdict(rows: _Rows, judged: Judged, row: int, twins: Sequence[int]) -> Verdict:
    label, likeliest, others = int(rows.labels[row]), int(judged.probs[row].argmax()), judged.probs[row].copy()
    others[label] = -1.0
    drop = bool(judged.scores[row] >= FLAGGED)
    suggested = int(others.argmax()) if drop else likeliest
    reasons = tuple(_reasons(rows, judged, row, twins))
    return Verdict(
        rows.table.places[row],
        rows.names[label],
        rows.names[suggested],
        float(judged.scores[row]),
        drop,
        reasons,
        rows.texts[row],
    )


def _reasons(rows: _Rows, judged: Judged, row: int, twins: Sequence[int]) -> Iterator[str]:
    label, likeliest = int(rows.labels[row]), int(judged.probs[row].argmax())
    if likeliest != label:
        seen, given = (f"{rows.names[k]} at {judged.probs[row, k]:.0%}" for k in (likeliest, label))
        yield f"the model sees {seen}, {given}"
    if judged.votes is not None:
        yield from _of_neighbours(rows.names, judged.votes[row], label)
    other = next((twin for twin in twins if rows.labels[twin] != label), None)
    if other is not None:
        yield f"near-duplicate with another label: line {rows.table.places[other]}, {rows.names[rows.labels[other]]}"
    if not rows.texts[row]:
        yield "no text is left after the repair"


def _of_neighbours(names: Sequence[str], counts: np.ndarray, label: int) -> Iterator[str]:
    most = int(counts.argmax())
    if counts[label] < counts[most]:
        here = f"{counts[most]} are labelled {names[most]}, {counts[label]} {names[label]}"
        yield f"of its {counts.sum()} nearest rows {here}"


def _known_rows(run: RunFolder, texts: Sequence[str]) -> int | None:
    """Return how many of the texts stand in the run's training file, or ``None`` when there is none at hand."""
    config, cleaner = run.config().data, Cleaner.load(run.adapter / "cleaner.json")
    if not Path(config.train).is_file():
        return None
    trained = read_table(config.train, config).texts
    known = {normalise(cleaner.repair(text)) for text in trained}
    return sum(normalise(text) in known for text in texts)
