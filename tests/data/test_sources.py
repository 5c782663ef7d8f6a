import csv
import gzip
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newslora import NewsloraError
from newslora.config import DataConfig
from newslora.data.sources import Table, integer, read_table

ROWS = [
    ("Ferry resumes", "The island ferry sailed again after the storm.", "World"),
    ("Keeper signs", "A goalkeeper joined the league's oldest club.", "Sports"),
    ("Lender merges", "Two rural banks agreed to join their books.", "Business"),
    ("Probe wakes", "", "Science"),
]
TEXTS = [f"{title} {body}".strip() for title, body, _ in ROWS]


def write_rows(path: Path) -> Path:
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    rows = [dict(zip(("title", "description", "label"), row, strict=True)) for row in ROWS]
    if kind == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        content = buffer.getvalue()
    elif kind in {"csv", "tsv"}:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path: Path, **settings: object) -> Table:
    return read_table(str(path), DataConfig.model_validate(settings))


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson", "parquet"])
def test_every_kind_of_file_gives_the_same_table(tmp_path: Path, kind: str, zipped: str) -> None:
    path = write_rows(tmp_path / f"a.{kind}{zipped}")
    table = read(path)
    first = 2 if kind in {"csv", "tsv"} else 1
    assert table.texts == TEXTS
    assert table.labels == [row[2] for row in ROWS]
    assert table.places == list(range(first, first + 4))
    assert (table.source, table.text_columns, table.label_column) == (str(path), ("title", "description"), "label")
    assert table.classes is None


def test_the_official_layout_takes_its_names_from_classes_txt(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('"2","Keeper signs","A goalkeeper joined."\n"1","Ferry resumes","It sailed."\n')
    (tmp_path / "classes.txt").write_text("World\nSports\n\n")
    table = read(path)
    assert table.texts == ["Keeper signs A goalkeeper joined.", "Ferry resumes It sailed."]
    assert table.labels == ["2", "1"]
    assert table.classes == ("World", "Sports")
    assert read(path, classes="Earth,Games").classes == ("Earth", "Games")


def test_classes_txt_about_other_labels_is_left_alone(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert read(path).classes is None
    (tmp_path / "classes.txt").write_text("Sports\nWorld\nBusiness\n")
    assert read(path).classes == ("Sports", "World", "Business")
    (tmp_path / "classes.txt").write_text("Sports\nWorld\nSports\n")
    with pytest.raises(NewsloraError, match=r"classes\.txt: a class is named twice"):
        read(path)


def test_columns_may_be_given(tmp_path: Path) -> None:
    table = read(write_rows(tmp_path / "a.csv"), text="description,title", label="title")
    assert table.texts[0] == "The island ferry sailed again after the storm. Ferry resumes"
    assert table.labels == [row[0] for row in ROWS]


def test_a_table_without_labels_is_read_where_none_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\nThe ferry sailed again.\nA goalkeeper signed.\n")
    table = read_table(str(path), DataConfig(), need_label=False)
    assert (table.texts, table.labels, table.label_column) == (
        ["The ferry sailed again.", "A goalkeeper signed."],
        None,
        None,
    )
    with pytest.raises(NewsloraError, match=r"a\.csv: no label column found among text; name it by --data\.label"):
        read(path)


def test_doubt_about_labels_is_no_fault_where_none_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,p,q\n" + "The ferry sailed,a,b\nA keeper signed,c,d\n" * 3)
    assert read_table(str(path), DataConfig(), need_label=False).labels is None


def test_a_second_table_takes_the_columns_of_the_first_where_it_has_them(tmp_path: Path) -> None:
    first = Table("train.csv", ["x"], ["y"], [2], None, ("kopf",), "ressort")
    path = tmp_path / "a.csv"
    path.write_text("ressort,kopf,title,label\nGeld,Zins steigt,Other,9\n")
    assert read_table(str(path), DataConfig(), like=first).texts == ["Zins steigt"]
    assert read_table(str(path), DataConfig(), like=first).labels == ["Geld"]
    other = read_table(str(write_rows(tmp_path / "b.csv")), DataConfig(), like=first)
    assert other.text_columns == ("title", "description")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            '{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n',
            ":2: label is missing; give each row one label",
        ),
        ('{"text": "a", "label": "x"}\n{"text": "b", "label": " "}\n', ":2: column 'label' is blank"),
        ('{"text": "a", "label": "x"}\n{"text": "b"}\n', ":2: has no column 'label'; give each row one label"),
        ('{"text": "a", "label": ["x", "y"]}\n', ":1: column 'label' holds ['x', 'y']; give each row one label"),
        ('{"text": "a", "label": 1.5}\n', ":1: column 'label' holds 1.5; give each row one label"),
        ('{"text": "a", "label": "x"}\n{"label": "y"}\n', ":2: has no column 'text'; give text"),
        ('{"text": ["a"], "label": "x"}\n', ":1: column 'text' holds ['a']; give text"),
    ],
)
def test_a_cell_at_fault_is_named(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(rows)
    with pytest.raises(NewsloraError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_cells_that_are_not_strings(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"title": None, "text": 7, "label": 2.0},
        {"title": "a", "text": "b", "label": True},
        {"title": "", "text": "c", "label": 5},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read(path)
    assert (table.texts, table.labels) == (["7", "a b", "c"], [2, "True", 5])


def test_a_cell_in_parquet_is_bounded_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x" * (1 << 20) + "y"], "label": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(NewsloraError, match=r"a\.parquet:1: column 'text' is blank or longer than 1 MiB"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone.csv", ": no such file"),
        ("some/deep/path", ": no such file"),
        ("../up", ": no such file"),
        (".", ": is a folder; give a file, one of .csv,"),
        ("a.txt", ": unknown kind of table; give one of .csv,"),
    ],
)
def test_what_is_no_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").touch()
    with pytest.raises(NewsloraError) as caught:
        read(Path(source))
    assert str(caught.value).startswith(f"{source}{message}")


def test_the_packaged_sample() -> None:
    tables = [read_table("sample", DataConfig(), split=split) for split in ("train", "test")]
    for table in tables:
        assert table.classes == ("World", "Sports", "Business", "Sci/Tech")
        assert table.labels is not None
        assert set(table.labels) == set(table.classes)
    assert len(tables[0].texts) + len(tables[1].texts) >= 480
    assert set(tables[0].texts).isdisjoint(tables[1].texts)


@pytest.mark.parametrize(
    ("label", "value"),
    [(3, 3), ("3", 3), ("3.0", 3), ("-1", -1), ("03", 3), ("3.5", None), ("x3", None), ("", None), ("9" * 30, None)],
)
def test_integers_are_read_from_text(label: str | int, value: int | None) -> None:
    assert integer(label) == value


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), kind=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]), zipped=st.booleans())
def test_altered_files_are_read_or_refused_on_one_line(tmp_path: Path, seed: int, kind: str, zipped: bool) -> None:
    path = write_rows(tmp_path / f"a.{kind}{'.gz' if zipped else ''}")
    path.write_bytes(alter(path.read_bytes(), random.Random(seed)))
    try:
        table = read_table(str(path), DataConfig(), need_label=seed % 2 == 0)
    except NewsloraError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
    else:
        assert len(table.texts) == len(table.places) == len(table.labels or table.texts) > 0


def alter(content: bytes, generator: random.Random) -> bytes:
    """Cut, overwrite, insert or repeat something somewhere, once or a few times."""
    pieces = [
        b'"',
        b"\0",
        b"\xe9",
        b"\r",
        b"\n",
        b",",
        b"\t",
        b"[" * 9999,
        b'{"a":' * 9999,
        b"x" * (1 << 21),
        b"\\ud800",
    ]
    for _ in range(generator.choice([1, 1, 2, 5])):
        start = generator.randrange(len(content) + 1)
        stop = min(len(content), start + generator.choice([0, 1, 50, 1 << 30]))
        middle = generator.choice(
            [b"", generator.randbytes(stop - start), generator.choice(pieces), content[start:stop] * 2]
        )
        content = content[:start] + middle + content[stop:]
    return content
