import csv
import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from newslora.data.sinks import open_sink
from newslora.errors import NewsloraError

ROWS = [{"id": 1, "text": 'a "quoted", one\nwith a break'}, {"id": 2, "text": None}]


def test_csv_reads_back(tmp_path: Path) -> None:
    with open_sink(str(tmp_path / "a.csv"), ["id", "text"]) as write:
        write(ROWS)
        write([{"id": 0.1 + 0.2}])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"id": "1", "text": ROWS[0]["text"]},
        {"id": "2", "text": ""},
        {"id": "0.30000000000000004", "text": ""},
    ]


def test_gzip_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        with open_sink(str(tmp_path / name), ["id", "text"]) as write:
            write(ROWS)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_json_keeps_what_it_has_no_type_for_as_text(tmp_path: Path) -> None:
    with open_sink(str(tmp_path / "a.jsonl"), ["when"]) as write:
        write([{"when": datetime.date(2004, 8, 9), "más": "é"}])
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8")) == {"when": "2004-08-09", "más": "é"}


def test_parquet_types_are_found_in_the_first_block(tmp_path: Path) -> None:
    with open_sink(str(tmp_path / "a.parquet"), ["id", "text", "void"]) as write:
        write(ROWS)
        write([{"id": 3, "text": "x", "void": "filled"}])
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.types == [pa.int64(), pa.string(), pa.string()]
    assert table.column("void").to_pylist() == [None, None, "filled"]


def test_nothing_written_is_an_empty_table(tmp_path: Path) -> None:
    with open_sink(str(tmp_path / "a.parquet"), ["id"]):
        pass
    assert pq.read_table(tmp_path / "a.parquet").column_names == ["id"]


def test_rows_that_do_not_fit(tmp_path: Path) -> None:
    with (
        pytest.raises(NewsloraError, match="does not fit the types"),
        open_sink(str(tmp_path / "a.parquet"), ["id"]) as write,
    ):
        write([{"id": 1}])
        write([{"id": "one"}])
    with pytest.raises(NewsloraError, match="column 'more'"), open_sink(str(tmp_path / "a.csv"), ["id"]) as write:
        write([{"id": 1, "more": 2}])
    assert list(tmp_path.iterdir()) == []
