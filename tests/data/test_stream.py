import gzip
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from newslora.data.frame import LONGEST_CELL
from newslora.data.stream import Row, kind_of, open_rows
from newslora.errors import NewsloraError


def read(path: Path | str) -> list[Row]:
    with open_rows(str(path)) as stream:
        return list(stream.rows)


def test_places_are_lines_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,"two\nlines"\n\n2,one\n')
    assert read(tmp_path / "a.csv") == [Row(2, {"id": "1", "text": "two\nlines"}), Row(5, {"id": "2", "text": "one"})]
    (tmp_path / "a.jsonl").write_text('\n{"a": 1}\n  \n{"a": null}\n')
    assert read(tmp_path / "a.jsonl") == [Row(2, {"a": 1}), Row(4, {"a": None})]


@pytest.mark.parametrize(
    ("first", "names"),
    [
        ("3,Shares rise,The market", ["class", "title", "description"]),
        ("3,Shares rise", ["class", "text"]),
        ("3,Shares rise,The market,x", ["class", "title", "description", "column 4"]),
    ],
)
def test_official_layout(tmp_path: Path, first: str, names: list[str]) -> None:
    (tmp_path / "a.csv").write_text(f"{first}\n{first}\n")
    cells = dict(zip(names, first.split(","), strict=True))
    assert read(tmp_path / "a.csv") == [Row(1, cells), Row(2, cells)]


def test_rows_after_a_faulty_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,text\n1,caf\xe9\n2,good\n3,"bad" quote\n4,too,many\n5,good\n')
    rows = read(tmp_path / "a.csv")
    assert [(row.place, row.cells.get("id")) for row in rows] == [(2, None), (3, "2"), (4, None), (5, None), (6, "5")]
    faults = [row.fault for row in rows if row.fault]
    for fault, part in zip(faults, ["a.csv:2: byte 0xe9", "a.csv:4: text follows", "a.csv:5: too many"], strict=True):
        assert part in fault


def test_a_line_without_end_is_one_fault(tmp_path: Path) -> None:
    long = json.dumps({"text": "x" * (2 * LONGEST_CELL + 99)})
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n{long}\n{{"text": "b"}}\n')
    first, second, third = read(tmp_path / "a.jsonl")
    assert (first.cells, third) == ({"text": "a"}, Row(3, {"text": "b"}))
    assert "a.jsonl:2: line is longer than 1 MiB" in str(second.fault)


def test_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"id\ttext\n1\tone, two\n"))
    assert read(tmp_path / "a.tsv.gz") == [Row(2, {"id": "1", "text": "one, two"})]


def test_a_file_that_breaks_off_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress("".join(json.dumps({"text": f"row {i * i}"}) + "\n" for i in range(5000)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(NewsloraError, match=r"a\.jsonl\.gz: broken gzip"):
        read(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(NewsloraError, match=r"a\.parquet: broken Parquet"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n' + b"\n" * 200_000, "blank lines in a row"),
        (b'{"text": "a"}\n' * (2 << 20), "unfolds to more"),
    ],
)
def test_what_is_no_table_ends_the_reading(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    with open_rows(str(tmp_path / "a.jsonl.gz")) as stream, pytest.raises(NewsloraError, match=message):
        for row in stream.rows:
            assert row.cells == {"text": "a"}


def test_a_bomb_in_one_line_ends_the_reading(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "' + b"x" * (32 << 20) + b'"}\n{"text": "a"}\n'))
    with open_rows(str(tmp_path / "a.jsonl.gz")) as stream, pytest.raises(NewsloraError, match="unfolds to more"):
        assert "line is longer" in str(next(stream.rows).fault)
        next(stream.rows)


@pytest.mark.parametrize("good", [b"headline", b"something"])
def test_parquet_of_what_is_no_text_is_refused(tmp_path: Path, good: bytes) -> None:
    pq.write_table(pa.table({"headline": ["something"]}), tmp_path / "a.parquet", compression="none")
    content = (tmp_path / "a.parquet").read_bytes()
    assert good in content
    (tmp_path / "a.parquet").write_bytes(content.replace(good, b"\xff" + good[1:]))
    with pytest.raises(NewsloraError, match=r"a\.parquet: broken Parquet"):
        read(tmp_path / "a.parquet")


def test_parquet(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {i}" for i in range(2500)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=700)
    with open_rows(str(tmp_path / "a.parquet")) as stream:
        assert (stream.columns, stream.schema) == (["text"], table.schema)
        assert list(stream.rows) == [Row(i + 1, {"text": f"row {i}"}) for i in range(2500)]


def test_empty_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    assert read(tmp_path / "a.jsonl") == []
    (tmp_path / "a.csv").touch()
    with pytest.raises(NewsloraError, match="is empty"):
        read(tmp_path / "a.csv")


def test_a_header_at_fault_ends_the_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\nid,"te"xt\n1,one\n')
    with pytest.raises(NewsloraError, match=r"a\.csv:2: text follows a closing quote"):
        read(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("id,id\n1,one\n")
    with pytest.raises(NewsloraError, match=r"a\.csv:1: two columns are named 'id'"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"one\n\n two \n", [Row(1, {"text": "one"}), Row(3, {"text": "two"})]),
        (b'{"text": "one"}\n\n{"text": "two"}', [Row(1, {"text": "one"}), Row(3, {"text": "two"})]),
        (b"", []),
    ],
)
def test_standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes, rows: list[Row]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read("-") == rows


def test_faults_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n\xff\ntwo\n")))
    rows = read("-")
    assert [row.cells for row in rows] == [{"text": "one"}, {}, {"text": "two"}]
    assert "stdin:2: byte 0xff" in str(rows[1].fault)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": 1\n{"text": "two"}\n')))
    rows = read("-")
    assert [row.cells for row in rows] == [{}, {"text": "two"}]
    assert "stdin:1: not readable as JSON" in str(rows[0].fault)


def test_kinds() -> None:
    assert [kind_of(name) for name in ("a.CSV", "a.b.tsv.gz", "x.ndjson", "y.parquet")] == [
        "csv",
        "tsv",
        "jsonl",
        "parquet",
    ]
    with pytest.raises(NewsloraError, match=r"a\.xml: unknown kind"):
        kind_of("a.xml")
