import csv
from pathlib import Path

import pytest

from newslora import NewsloraError
from newslora.data.delimited import read_delimited
from newslora.data.frame import Frame


def read(tmp_path: Path, text: str, name: str = "a.csv") -> Frame:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    return read_delimited(tmp_path / name)


def fails(tmp_path: Path, text: str) -> str:
    with pytest.raises(NewsloraError) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(tmp_path / "a.csv"))


def test_the_official_layout_is_known_by_its_integer_class(tmp_path: Path) -> None:
    frame = read(tmp_path, '"3","Oil up","Crude rose; so did ""gas"""\n"1","Talks","Envoys met\\today"\n')
    assert frame.columns == {
        "class": ["3", "1"],
        "title": ["Oil up", "Talks"],
        "description": ['Crude rose; so did "gas"', "Envoys met\\today"],
    }
    assert frame.places == [1, 2]


def test_the_official_layout_may_have_text_alone_or_more(tmp_path: Path) -> None:
    assert list(read(tmp_path, "1,Oil up\n2,Cup won\n").columns) == ["class", "text"]
    assert list(read(tmp_path, "1,Oil up,a,b\n").columns) == ["class", "title", "description", "column 4"]


@pytest.mark.parametrize("header", ["Class Index,Title,Description", "rubrik,kopf,rumpf", "0,text", "0,1,2", ",a,b"])
def test_any_other_first_row_is_a_header(tmp_path: Path, header: str) -> None:
    width = header.count(",") + 1
    frame = read(tmp_path, header + "\n" + ",".join("xyz"[:width]) + "\n")
    assert list(frame.columns) == [name or "column 1" for name in header.split(",")]
    assert frame.places == [2]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_is_told_from_the_header(tmp_path: Path, mark: str) -> None:
    frame = read(tmp_path, mark.join(["label", '"a,b;c"']) + "\n" + mark.join(["x", "y"]) + "\n")
    assert frame.columns == {"label": ["x"], "a,b;c": ["y"]}


def test_tsv_keeps_commas(tmp_path: Path) -> None:
    assert read(tmp_path, "label\ttext, all of it\nx\ty, z\n", "a.tsv").columns["text, all of it"] == ["y, z"]


def test_places_are_the_lines_where_rows_begin(tmp_path: Path) -> None:
    frame = read(tmp_path, 'label,text\r\n\r\nx,"one\r\ntwo\r\nthree"\r\ny,four\r\n')
    assert frame.places == [3, 6]
    assert frame.columns["text"] == ["one\r\ntwo\r\nthree", "four"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": is empty; give a table with one article a row"),
        ("\n\n", ": is empty; give a table with one article a row"),
        ("label,text\n", ": holds no rows; give a table with one article a row"),
        ("label,text\nx,y\nz\n", ":3: too few columns (1); expected 2: label, text"),
        ("1,Oil,up\n2,Cup\n", ":2: too few columns (2); expected 3: class, title, description"),
        ("label,text\nx,y, z\n", ":2: too many columns (3); expected 2: label, text"),
        ('label,text\nx,y\nx,"y\nz\n', ":3: the row opens a quote that is never closed; close it"),
        ('label,text\nx,"y" z\n', ":2: text follows a closing quote; double the quotes inside a quoted field"),
        (
            "label,text\nx,y\rz,w\n",
            ":2: cannot be read as CSV (new-line character seen in unquoted field); quote fields",
        ),
        ("1,Oil up,rose\nx,Cup,won\n", ":2: class 'x' is not an integer, as in the rows above"),
        ("a,text,a\n1,2,3\n", ":1: two columns are named 'a'; give each its own name"),
        (f"{'long ' * 20},text\n1,2\n", ":1: 'long long long"),
        ("a" + "," * 5000 + "\n", ":1: has 5001 columns; at most 4096 are read"),
        ("label,text\nx," + "y" * (1 << 20) + "\n", ":2: line is longer than 1 MiB"),
        (
            'label,text\nx,"' + ("y" * 1000 + "\n") * 1100,
            ":2: a field is longer than 1 MiB, or a quote is never closed",
        ),
    ],
)
def test_a_row_at_fault_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert fails(tmp_path, text).startswith(message)


def test_the_field_limit_of_the_process_is_left_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    read(tmp_path, "label,text\nx," + "y" * 500_000 + "\n")
    fails(tmp_path, 'label,text\nx,"y')
    assert csv.field_size_limit() == before
