"""Articles with several labels, read alike from text with a separator and from lists."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from newslora.config import DataConfig
from newslora.data.label_sets import encode_sets, flat, number_kinds, written_set
from newslora.data.labels import label_base, label_names
from newslora.data.prepare import prepare
from newslora.data.sources import Table, read_table
from newslora.errors import NewsloraError

LABELS: list[list[str | int]] = [["World"], ["Business", "Sci/Tech"], ["Sports"], ["Sci/Tech", "Business"], ["World", "Sports"]]  # fmt: skip
NAMES = ("Business", "Sci/Tech", "Sports", "World")
SETS = [[0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]]


def write(path: Path, labels: list[list[str | int]], separator: str = "|") -> Path:
    rows = [{"label": own, "text": f"The story of article {i} was told."} for i, own in enumerate(labels)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            lines = [[separator.join(map(str, row["label"])), row["text"]] for row in rows]  # type: ignore[arg-type]
            csv.writer(file).writerows([["label", "text"], *lines])
    return path


def read(path: Path, **settings: object) -> Table:
    return read_table(str(path), DataConfig.model_validate({"multi_label": True, **settings}))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_every_kind_of_file_gives_the_same_sets(name: str, tmp_path: Path) -> None:
    table = read(write(tmp_path / name, LABELS))
    assert table.label_sets == [tuple(labels) for labels in LABELS]
    assert table.labels is None  # who asks for one label a row is refused, never given a wrong one
    assert label_names(flat(table)) == NAMES
    np.testing.assert_array_equal(encode_sets(table, NAMES), SETS)


def test_another_separator_and_a_label_twice(tmp_path: Path) -> None:
    table = read(write(tmp_path / "a.csv", [["a", "b", "a"], ["b"]], "; "), separator=";")
    assert table.label_sets == [("a", "b"), ("b",)]


def test_integers_are_names_by_their_order(tmp_path: Path) -> None:
    table = read(write(tmp_path / "a.csv", [["1", "3"], ["2"]]), classes=["World", "Sports", "Business"])
    names = label_names(flat(table))
    np.testing.assert_array_equal(encode_sets(table, names, label_base(flat(table), names)), [[1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize(("labels", "at"), [([["a"], ["b"], []], 3), ([["a", " "], ["b"]], 1)])
def test_a_row_without_a_label_is_refused(labels: list[list[str | int]], at: int, tmp_path: Path) -> None:
    for name, first in (("a.csv", 1), ("a.jsonl", 0)):
        path = write(tmp_path / name, labels)
        with pytest.raises(NewsloraError, match=rf"{path}:{at + first}: .*; give each row one label"):
            read(path)


def test_an_unknown_label_is_named_with_its_line(tmp_path: Path) -> None:
    table = read(write(tmp_path / "a.csv", [["World"], ["Sports", "Wrold"]]))
    with pytest.raises(NewsloraError, match=r"a\.csv:3: unknown label 'Wrold'; known labels: Business"):
        encode_sets(table, NAMES)


def test_a_list_where_one_label_is_asked_names_the_setting(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LABELS)
    with pytest.raises(NewsloraError, match=r"a\.jsonl:1: .*give each row one label, or set data\.multi_label"):
        read(path, multi_label=False)


def test_kinds_stand_for_sets_on_every_side() -> None:
    sides = {"train": np.array(SETS, dtype=np.float32), "test": np.array([SETS[1], [1, 0, 0, 0]], dtype=np.float32)}
    kinds, numbers = number_kinds(sides)
    assert len(kinds) == 5
    for side, sets in sides.items():
        np.testing.assert_array_equal(kinds[numbers[side]], sets)


def test_a_set_is_written_as_it_is_read() -> None:
    assert written_set([True, False, True, False], NAMES, "|") == "Business|Sports"
    assert written_set([False] * 4, NAMES, "|") == ""


def test_prepared_rows_keep_their_sets_through_filter_and_split(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    labels = [LABELS[i % 5] for i in range(60)]
    path = write(tmp_path / "a.csv", labels)
    config = DataConfig(train=str(path), multi_label=True, validation_share=0.2, near_duplicates=False)
    data = prepare(config, tokenizer, seed=0)
    assert data.names == NAMES
    assert data.kinds is not None
    for split in (data.train, data.validation):
        expected = [sorted(map(str, labels[place - 2])) for place in split.places]
        found = [sorted(np.array(NAMES)[data.kinds[label] > 0].tolist()) for label in split.labels]
        assert found == expected
    shares = data.report["classes"]["train"]
    carried = data.kinds[data.train.labels].mean(axis=0)
    assert shares == pytest.approx(dict(zip(NAMES, carried.tolist(), strict=True)), abs=1e-6)
    assert sum(shares.values()) > 1.2


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_topic_brings_those_above_it(name: str, tmp_path: Path) -> None:
    labels: list[list[str | int]] = [["Sports / Tennis"], ["Business", "Sports/Tennis/Doubles"], ["Sports"]]
    table = read(write(tmp_path / name, labels), hierarchy="/")
    tennis = ("Sports", "Sports/Tennis")
    assert table.label_sets == [tennis, ("Business", *tennis, "Sports/Tennis/Doubles"), ("Sports",)]


@pytest.mark.parametrize("label", ["Sports//Tennis", "/Tennis", "Sports/ "])
def test_a_topic_without_a_name_is_refused(label: str, tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match=r"a\.csv:3: label '.*' has a topic without a name; expected A/B$"):
        read(write(tmp_path / "a.csv", [["Sports"], [label]]), hierarchy="/")
