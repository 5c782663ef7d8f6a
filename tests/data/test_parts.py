import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from newslora.data.parts import open_parts
from newslora.data.stream import open_rows
from newslora.errors import NewsloraError

KINDS = ("csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "parquet")
COLUMNS = ["id", "text"]
BLOCKS = [[{"id": 3 * block + i, "text": f'row "{i}"\nof {block}'} for i in range(3)] for block in range(4)]
JOB = {"source": "in.csv", "bytes": 9}


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the project catches it."""


def silent(line: str) -> None:
    """Say nothing."""


def write(target: Path, job: dict[str, Any] = JOB, stop: int = 9, note: Callable[[str], None] = silent) -> int:
    """Write the blocks that are not there yet, and die before block ``stop``; return how many were there."""
    with open_parts(target, job, note) as parts:
        before = len(parts.done)
        for number in range(before, len(BLOCKS)):
            if number == stop:
                raise Killed
            parts.write(BLOCKS[number], number % 2, COLUMNS)
        assert [(part.written, part.skipped) for part in parts.done] == [(3, 0), (3, 1), (3, 0), (3, 1)]
    return before


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_the_joined_table_holds_every_row_once(tmp_path: Path, kind: str) -> None:
    write(tmp_path / f"out.{kind}")
    with open_rows(str(tmp_path / f"out.{kind}")) as stream:
        rows = [row.cells for row in stream.rows]
    assert [(str(row["id"]), row["text"]) for row in rows] == [
        (str(row["id"]), row["text"]) for block in BLOCKS for row in block
    ]
    assert names(tmp_path) == [f"out.{kind}"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", range(4))
def test_after_a_kill_the_same_bytes(tmp_path: Path, kind: str, stop: int) -> None:
    write(tmp_path / f"whole.{kind}")
    with pytest.raises(Killed):
        write(tmp_path / f"out.{kind}", stop=stop)
    assert not (tmp_path / f"out.{kind}").exists()
    assert write(tmp_path / f"out.{kind}") == stop
    assert (tmp_path / f"out.{kind}").read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    assert names(tmp_path) == sorted([f"out.{kind}", f"whole.{kind}"])


@pytest.mark.parametrize("moment", ["before the rename", "after the rename", "while parts are removed"])
def test_killed_while_joining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    write(tmp_path / "whole.csv")
    replace, rmtree = Path.replace, "newslora.data.parts.shutil.rmtree"

    def die(self: Path, target: Path) -> Path:
        if self.name == "joined.csv":
            if moment == "after the rename":
                replace(self, target)
            raise Killed
        return replace(self, target)

    def remove_some(folder: Path, **_: object) -> None:
        (folder / "part-000001-3-1.csv").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "while parts are removed":
            patch.setattr(rmtree, remove_some)
        else:
            patch.setattr(Path, "replace", die)
        with pytest.raises(Killed):
            write(tmp_path / "out.csv")
    assert write(tmp_path / "out.csv") == (1 if moment == "while parts are removed" else 4)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert names(tmp_path) == ["out.csv", "whole.csv"]


def test_half_a_part_is_no_part(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        write(tmp_path / "out.csv", stop=2)
    (tmp_path / ".out.csv.parts" / ".part-000002-3-0.csv.77.tmp").write_text("6,ro")
    assert write(tmp_path / "out.csv") == 2
    assert names(tmp_path) == ["out.csv"]


def test_parts_of_another_job_are_never_taken_up(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(Killed):
        write(tmp_path / "out.csv", stop=3)
    assert write(tmp_path / "out.csv", JOB | {"bytes": 10}, note=told.append) == 0
    assert told == [
        f"{tmp_path / 'out.csv'}: its unfinished rows were made from another input, model or setting; starting anew"
    ]


def test_what_was_found_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(Killed):
        write(tmp_path / "out.csv", stop=2, note=told.append)
    assert told == []
    write(tmp_path / "out.csv", note=told.append)
    assert told == ["going on after 7 rows of an earlier start"]


def test_a_row_at_fault_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("earlier")
    with pytest.raises(NewsloraError, match=r"in\.csv:7"), open_parts(tmp_path / "out.csv", JOB, silent) as parts:
        parts.write(BLOCKS[0], 0, COLUMNS)
        raise NewsloraError("in.csv:7: no text")
    assert (names(tmp_path), (tmp_path / "out.csv").read_text()) == (["out.csv"], "earlier")


def test_a_full_disk_keeps_what_is_done(disk: Callable[[int], Path]) -> None:
    place = disk(64)
    rows = [{"id": i, "text": "x" * 900} for i in range(40)]

    def fill() -> int:
        with open_parts(place / "out.csv", JOB, silent) as parts:
            before = len(parts.done)
            for _ in range(before, 4):
                parts.write(rows, 0, COLUMNS)
        return before

    with pytest.raises(NewsloraError, match="No space left on device"):
        fill()
    disk(1024)
    assert fill() == 1
    assert len((place / "out.csv").read_text().splitlines()) == 161


def test_two_processes_on_one_table(tmp_path: Path) -> None:
    with open_parts(tmp_path / "out.csv", JOB, silent) as parts:
        with (
            pytest.raises(NewsloraError, match="another process is writing it"),
            open_parts(tmp_path / "out.csv", JOB, silent),
        ):
            raise AssertionError
        parts.write(BLOCKS[0], 0, COLUMNS)
    assert (tmp_path / "out.csv").read_text().startswith("id,text\n0,")


def test_parquet_parts_have_the_types_of_the_first(tmp_path: Path) -> None:
    with open_parts(tmp_path / "out.parquet", JOB, silent) as parts:
        parts.write([{"id": 1, "text": "a"}], 0, COLUMNS)
        parts.write([{"id": None, "text": None}], 0, COLUMNS)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [{"id": 1, "text": "a"}, {"id": None, "text": None}]
    with (
        pytest.raises(NewsloraError, match=r"out\.parquet: a row does not fit the types of the first rows"),
        open_parts(tmp_path / "out.parquet", JOB, silent) as parts,
    ):
        parts.write([{"id": 1, "text": "a"}], 0, COLUMNS)
        parts.write([{"id": "x", "text": "a"}], 0, COLUMNS)


def test_gzipped_parts_are_one_gzip_file(tmp_path: Path) -> None:
    write(tmp_path / "out.jsonl.gz")
    lines = gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).decode().splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(12))


@pytest.mark.parametrize(("name", "reason"), [("out.txt", "unknown kind"), ("out.parquet.gz", "leave off .gz")])
def test_names_that_say_nothing(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(NewsloraError, match=reason), open_parts(tmp_path / "new" / name, JOB, silent):
        raise AssertionError
    assert names(tmp_path) == []


def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "out.csv").mkdir()
    for target, reason in (("file/out.csv", "cannot be written"), ("out.csv", "is a folder")):
        with pytest.raises(NewsloraError, match=reason), open_parts(tmp_path / target, JOB, silent):
            raise AssertionError
