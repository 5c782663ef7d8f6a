"""From tables to encoded splits: read, repair, filter, split, encode, and report on all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from newslora.config import DataConfig
from newslora.data.audit_file import read_flagged
from newslora.data.cleaning import Cleaner
from newslora.data.duplicates import normalise
from newslora.data.encoding import Encoded, encode_and_count
from newslora.data.filters import Filtered, filter_rows
from newslora.data.frame import Frame
from newslora.data.label_sets import Sets, encode_sets, flat, number_kinds
from newslora.data.labels import encode_labels, label_base, label_names
from newslora.data.sources import Table, make_table, read_table
from newslora.data.splits import Rows, draw_stratified, split_stratified
from newslora.data.story import RowCounts, describe, describe_filters
from newslora.data.streaming import ArticleStream, Position
from newslora.data.teaching import Teaching
from newslora.errors import NewsloraError


@dataclass(frozen=True)
class Split:
    """Articles ready for batches, one position an article.

    Attributes:
        texts: Repaired texts.
        labels: Positions in :attr:`Prepared.names`; with several labels an article, in :attr:`Prepared.kinds`.
        places: 1-based line of each row in its file; row number for Parquet and the hub.
        source: Path or hub id.
        encoded: Their tokens.
    """

    texts: list[str]
    labels: list[int]
    places: list[int]
    source: str
    encoded: Encoded

    def take(self, rows: NDArray[np.int64]) -> "Split":
        """Return the articles at ``rows``, int64 [rows], in that order."""
        texts, labels, places = ([part[row] for row in rows] for part in (self.texts, self.labels, self.places))
        return Split(texts, labels, places, self.source, self.encoded.take(rows))

    def where(self) -> list[str]:
        """Return ``file:line`` of each article."""
        return [f"{self.source}:{place}" for place in self.places]


@dataclass(frozen=True)
class Prepared:
    """What training needs of the data.

    Attributes:
        names: Classes in the model's order.
        train: Filtered.
        validation: As given, or set aside from the filtered training rows.
        test: As given.
        cleaner: The repair that the texts went through, and that must travel with the model.
        report: What was read, repaired, dropped and shared, as plain JSON values.
        teaching: What a teacher says of the training rows, if there is one.
        stream: Where the training rows after :attr:`train` come from, if they are streamed.
        kinds: Where articles carry several labels, which of the classes each kind of articles carries, float32
            [kinds, classes]; else None.
    """

    names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split | None
    cleaner: Cleaner
    report: dict[str, Any]
    teaching: Teaching | None = None
    stream: "StreamedRows | None" = None
    kinds: Sets | None = None

    def counts(self) -> RowCounts:
        """Return what there is to tell of the rows."""
        return RowCounts(
            train=len(self.train.labels),
            validation=len(self.validation.labels),
            test=None if self.test is None else len(self.test.labels),
            dropped=sum(filtered["rows"] for filtered in self.report["filters"].values()),
            names=self.names,
            streamed=self.stream is not None,
        )


def prepare(config: DataConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> Prepared:
    """Read, repair, filter, split and encode the tables of a run.

    The filters go over the whole training table before any row of it is set aside, so no duplicate stands on both
    sides; explicit validation and test tables are not filtered. ``data.limit`` draws from what is then left to train
    on, so the validation rows do not depend on it.

    Args:
        config: The data settings.
        tokenizer: The backbone's fast tokenizer.
        seed: Of the split and of the draw under ``data.limit``.

    Raises:
        NewsloraError: A table that cannot be read or understood, an unknown label, or too few rows or classes left.
    """
    stream = ArticleStream(config, seed) if config.streaming else None
    first = None if stream is None else stream.window(Position())
    tables = _read_tables(config, None if first is None else first.frame)
    labelled = flat(tables["train"]) if config.multi_label else tables["train"]
    names = label_names(labelled)
    base = label_base(labelled, names)
    kinds, codes = _code(tables, names, base, config)  # first: it may fail, and the rest takes its time
    cleaner = Cleaner(config.drop_agency)
    made = {side: _make(t, codes[side], cleaner, tokenizer, config.max_length) for side, t in tables.items()}
    whole, tokens = made["train"]
    flagged = None if config.drop is None else _flagged(config.drop, whole, names)
    filtered = filter_rows(whole.texts, np.array(whole.labels), tokens, config, flagged)
    _check_left(whole, filtered)
    splits = {side: split for side, (split, _) in made.items()} | _divide(
        whole, filtered.kept, config, seed, "validation" in made
    )
    report = describe(tables, {side: split.texts for side, (split, _) in made.items()}, splits, names, kinds)
    report |= {"label_base": base, "filters": describe_filters(whole, filtered)}
    streamed = None
    if stream is not None and first is not None:
        report["streamed"] = True
        held = frozenset(map(normalise, splits["validation"].texts))
        streamed = StreamedRows(
            stream, first.following, config, tables["train"], (names, base), cleaner, tokenizer, held
        )
    sides = (splits["train"], splits["validation"], splits.get("test"))
    return Prepared(names, *sides, cleaner, report, kinds=kinds, stream=streamed)


def _read_tables(config: DataConfig, first: Frame | None) -> dict[str, Table]:
    train = read_table(config.train, config, split=config.train_split) if first is None else make_table(first, config)
    tables = {"train": train}
    others = {"validation": (config.validation, config.validation_split), "test": (config.test, config.test_split)}
    for side, (source, split) in others.items():
        if source is not None:
            tables[side] = read_table(source, config, split=split, like=tables["train"])
    return tables


def _code(
    tables: Mapping[str, Table], names: tuple[str, ...], base: int | None, config: DataConfig
) -> tuple[Sets | None, dict[str, list[int]]]:
    """Return the kinds of articles, if they carry several labels, and each table's labels as numbers."""
    if not config.multi_label:
        return None, {side: encode_labels(table, names, base) for side, table in tables.items()}
    return number_kinds({side: encode_sets(table, names, base) for side, table in tables.items()})


@dataclass(frozen=True)
class StreamedRows:
    """The windows of a stream after the first, which is :attr:`Prepared.train` and the validation rows.

    Attributes:
        stream: Where they come from.
        second: Where the second window begins.
        config: The data settings.
        like: The first window, whose columns are taken.
        classes: Their names, and where integer labels count from.
        cleaner: The repair.
        tokenizer: The backbone's.
        held: Validation texts, normalised; no row that repeats one is trained on.
    """

    stream: ArticleStream
    second: Position
    config: DataConfig
    like: Table
    classes: tuple[tuple[str, ...], int | None]
    cleaner: Cleaner
    tokenizer: PreTrainedTokenizerBase
    held: frozenset[str]

    def window(self, position: Position) -> tuple[Split, Position]:
        """Return the rows of the window at a position, filtered among themselves, and where the next one begins.

        Raises:
            NewsloraError: The stream cannot be read, or a row's label is none of the classes.
        """
        window = self.stream.window(position)
        table = make_table(window.frame, self.config, like=self.like)
        labels = encode_labels(table, *self.classes)
        whole, tokens = _make(table, labels, self.cleaner, self.tokenizer, self.config.max_length, cache=False)
        kept = filter_rows(whole.texts, np.array(whole.labels), tokens, self.config).kept
        free = np.array([normalise(whole.texts[row]) not in self.held for row in kept], dtype=bool)
        return whole.take(kept[free]), window.following


def _make(
    table: Table,
    labels: list[int],
    cleaner: Cleaner,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cache: bool = True,
) -> tuple[Split, NDArray[np.int64]]:
    texts = [cleaner.repair(text) for text in table.texts]
    encoded, tokens = encode_and_count(texts, tokenizer, max_length, cache)
    return Split(texts, labels, table.places, table.source, encoded), tokens


def _flagged(audit: str, whole: Split, names: Sequence[str]) -> Rows:
    return read_flagged(audit, whole.places, [names[label] for label in whole.labels], whole.source)


def _check_left(whole: Split, filtered: Filtered) -> None:
    if len({whole.labels[row] for row in filtered.kept}) < 2:
        taken = ", ".join(f"{len(rows)} {name}" for name, rows in filtered.dropped.items() if len(rows)) or "none"
        left = f"{len(filtered.kept)} of {len(whole.texts)} rows are left after filtering (taken: {taken})"
        raise NewsloraError(f"{whole.source}: {left}; give rows of two classes, or loosen data.min_tokens and the like")


def _divide(whole: Split, kept: Rows, config: DataConfig, seed: int, has_validation: bool) -> dict[str, Split]:
    """Return the training rows and, unless there is a table of them, the validation rows."""
    splits = {}
    labels = np.array(whole.labels)
    if not has_validation:
        rest, aside = split_stratified(labels[kept], config.validation_share, seed)
        if not len(aside):
            raise NewsloraError(
                f"{whole.source}: too few rows to set some aside for validation; give --data.validation"
            )
        splits["validation"], kept = whole.take(kept[aside]), kept[rest]
    if config.limit is not None:
        kept = kept[draw_stratified(labels[kept], config.limit, seed)]
    return splits | {"train": whole.take(kept)}
