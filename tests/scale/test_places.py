import gzip
from pathlib import Path

import pytest

from newslora.errors import NewsloraError
from newslora.scale.places import describe, fetched, find_tables, is_address, name_targets, send
from newslora.scale.remote import open_remote_parts


def silent(line: str) -> None:
    """Say nothing."""


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.csv", "a.jsonl", ".c.csv", "classes.txt", "d.csv.gz"):
        (folder / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    (folder / "e.csv").mkdir()
    return folder


@pytest.mark.parametrize("address", [False, True])
def test_what_a_source_names(tables: Path, address: bool) -> None:
    start = "file://" if address else ""
    found, several = find_tables(f"{start}{tables}")
    assert (found, several) == ([f"{start}{tables / name}" for name in ("a.jsonl", "b.csv", "d.csv.gz")], True)
    found, several = find_tables(f"{start}{tables}/b*")
    assert (found, several) == ([f"{start}{tables / 'b.csv'}"], True)
    assert find_tables(f"{start}{tables}/b.csv") == ([f"{start}{tables}/b.csv"], False)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("-", "standard input"),
        ("{}/none.csv", "no such file"),
        ("file://{}/none.csv", "no such file"),
        ("{}/*.parquet", "names no table"),
        ("{}/classes.txt", "unknown kind"),
        ("nowhere://bucket/a.csv", "cannot be reached"),
    ],
)
def test_a_source_that_names_nothing(tables: Path, source: str, fault: str) -> None:
    with pytest.raises(NewsloraError, match=fault) as raised:
        find_tables(source.format(tables))
    assert "\n" not in str(raised.value)


def test_targets() -> None:
    assert name_targets(["in/a.csv"], False, "out.jsonl") == ["out.jsonl"]
    assert name_targets(["in/a.csv", "in/b.csv"], True, "s3://x/out/") == ["s3://x/out/a.csv", "s3://x/out/b.csv"]
    with pytest.raises(NewsloraError, match=r"two tables are named a\.csv"):
        name_targets(["in/a.csv", "on/a.csv"], True, "out")
    with pytest.raises(NewsloraError, match="give a file's name"):
        name_targets(["in/a.csv"], False, "-")


def test_a_file_goes_to_an_address_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("one")
    address = f"file://{tmp_path}/far/b.csv"
    send(tmp_path / "a.csv", address)
    before = describe(address)
    with fetched(address) as copy:
        assert (is_address(address), is_address(copy), Path(copy).name, Path(copy).read_text()) == (
            True,
            False,
            "b.csv",
            "one",
        )
    assert not Path(copy).exists()
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["b.csv"]
    (tmp_path / "a.csv").write_text("two and more")
    send(tmp_path / "a.csv", address)
    assert describe(address) != before
    with pytest.raises(NewsloraError, match="no such file"), fetched(f"file://{tmp_path}/none.csv"):
        pass


def test_parts_of_another_job_are_not_taken_up(tmp_path: Path) -> None:
    target, said = f"file://{tmp_path}/out.csv", list[str]()
    (tmp_path / "part-000000-1-0.csv").write_text("id\n1\n")
    with pytest.raises(KeyboardInterrupt), open_remote_parts(target, {"source": 1}, said.append) as parts:
        send(tmp_path / "part-000000-1-0.csv", f"{parts.folder}/part-000000-1-0.csv")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), open_remote_parts(target, {"source": 1}, said.append) as parts:
        assert (parts.numbers(), said) == ({0}, [])
        raise KeyboardInterrupt
    with open_remote_parts(target, {"source": 2}, said.append) as parts:
        assert parts.numbers() == set()
        assert "another input" in said[0]
        (tmp_path / "part-000000-1-0.csv").write_text("id\n2\n")
        send(tmp_path / "part-000000-1-0.csv", f"{parts.folder}/part-000000-1-0.csv")
        parts.gather(1)
    assert (tmp_path / "out.csv").read_text() == "id\n2\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "part-000000-1-0.csv"]


def test_a_lost_part_is_told_of_and_the_others_stay(tmp_path: Path) -> None:
    target = f"file://{tmp_path}/out.csv"
    with pytest.raises(NewsloraError, match="part 0 is not in"), open_remote_parts(target, {}, silent) as parts:
        parts.gather(1)
    assert (tmp_path / ".out.csv.parts" / "job.json").exists()
