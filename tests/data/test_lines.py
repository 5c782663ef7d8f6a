import gzip
from pathlib import Path

import pytest

from newslora import NewsloraError
from newslora.data.lines import read_bytes, read_lines


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_lines_keep_their_ends_and_lose_the_byte_order_mark(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b"\xef\xbb\xbfone\r\ntw\xc3\xb6\nthree\xe2\x80\xa8four")
    assert list(read_lines(path)) == ["one\r\n", "twö\n", "three\u2028four"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fine\ncaf\xe9\n", ":2: byte 0xe9 is not UTF-8; save the table as UTF-8"),
        (b"fine\nfine\nN\0L\n", ":3: holds a NUL byte"),
        (b"fine\n" + b"x" * (2 << 20), ":2: line is longer than 1 MiB"),
        ("wide".encode("utf-16"), ":1: is UTF-16; save the table as UTF-8"),
        (gzip.compress(b"hidden", mtime=0), ":1: is gzip; let the file's name end in .gz"),
    ],
)
def test_what_is_no_text_is_refused_where_it_stands(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(NewsloraError) as caught:
        list(read_lines(path))
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize("cut", [1, 9, 20, -9, -1])
def test_a_cut_gzip_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(bytes(range(32, 127)) * 9)[:cut])
    with pytest.raises(NewsloraError, match=r"a\.csv\.gz: broken gzip"):
        list(read_lines(path))


def test_a_gzip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(b"label,text\n")
    with pytest.raises(NewsloraError, match="broken gzip"):
        list(read_lines(path))


def test_a_bomb_of_short_lines_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", b"label,text\n" * (3 << 20))
    with pytest.raises(NewsloraError, match="unfolds to more than 100 times its size"):
        for _ in read_lines(path):
            pass


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_flood_of_blank_lines_is_refused(tmp_path: Path, end: bytes) -> None:
    few = write(tmp_path / "few.csv", b"label,text\n" + 100_000 * end + b"a,b\n" + 100_000 * end)
    assert sum(1 for _ in read_lines(few)) == 200_002
    many = write(tmp_path / "many.csv", b"label,text\n" + 100_001 * end + b"a,b\n")
    with pytest.raises(NewsloraError, match=r"many\.csv:100002: 100,000 blank lines in a row"):
        list(read_lines(many))


def test_a_bomb_read_whole_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet.gz", bytes(32 << 20))
    with pytest.raises(NewsloraError, match="unfolds to more than 100 times its size"):
        read_bytes(path)


def test_small_files_may_shrink_as_they_like(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", b"same,row\n" * 100_000)
    assert sum(1 for _ in read_lines(path)) == 100_000


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match=r"gone\.csv: cannot be read \(No such file"):
        list(read_lines(tmp_path / "gone.csv"))
