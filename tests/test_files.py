"""A file is there whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from newslora import files
from newslora.errors import NewsloraError
from newslora.files import read_bytes, read_json, write_text, writing


def tree(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_file_appears_under_its_name_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "parents" / "a.txt"
    with writing(path) as staged:
        assert staged.parent == path.parent
        staged.write_text("whole")
        assert not path.exists()
    assert tree(tmp_path) == {"new/parents/a.txt": "whole"}


def test_readers_see_the_old_content_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with path.open() as reader, writing(path) as staged:
        staged.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert reader.closed
    assert tree(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), NewsloraError("no")])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_after_an_error_the_old_is_as_it_was_and_nothing_is_left(
    kind: str, error: BaseException, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    if kind == "file":
        write_text(path, "old")
    else:
        write_text(path / "b", "old")
    before = tree(tmp_path)
    with pytest.raises(type(error)) as caught, writing(path) as staged:
        if kind == "file":
            staged.write_text("half")
        else:
            staged.mkdir()
            (staged / "b").write_text("half")
        raise error
    assert caught.value is error
    assert tree(tmp_path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_folder_replaces_the_old_folder_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "gone.txt", "old")
    with writing(tmp_path / "a") as staged:
        (staged / "deep").mkdir(parents=True)
        (staged / "deep" / "b.txt").write_text("new")
    assert tree(tmp_path) == {"a/deep/b.txt": "new"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_folder_replaces_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "file")
    with writing(tmp_path / "a") as staged:
        staged.mkdir()
    assert (tmp_path / "a").is_dir()


def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    for name in (f".a.{os.getpid()}.tmp", f".a.{os.getpid()}.old"):
        write_text(tmp_path / name / "junk", "left")
    write_text(tmp_path / "a" / "b", "old")
    with writing(tmp_path / "a") as staged:
        staged.mkdir(exist_ok=True)
        (staged / "b").write_text("new")
    assert tree(tmp_path)["a/b"] == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_one_line_and_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NewsloraError) as caught:
        write_text(path, "new")
    assert str(caught.value) == (
        f"{path}: cannot be written (No space left on device); free some space or choose another place"
    )
    assert tree(tmp_path) == {"a.txt": "old"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_full_device_told_by_the_system_itself(tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="No space left on device"), writing(tmp_path / "a.txt") as staged:
        staged.symlink_to("/dev/full")
        staged.write_text("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_when_the_swap_fails_the_old_folder_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a" / "b", "old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(NewsloraError, match="Input/output error"), writing(tmp_path / "a") as staged:
        staged.mkdir()
        (staged / "b").write_text("new")
    assert tree(tmp_path) == {"a/b": "old"}


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    with pytest.raises(NewsloraError, match=r"file/a\.txt: cannot be written \((Not a directory|File exists)"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="No such file"), writing(tmp_path / "a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(files, "_sync", lambda path: events.append(f"sync {path.suffix or 'folder'}"))
    monkeypatch.setattr(Path, "replace", lambda self, target: events.append("rename") or replace(self, target))
    write_text(tmp_path / "a.txt", "x")
    assert events == ["sync .tmp", "rename", "sync folder"]


def test_text_is_written_as_utf8_with_its_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"


def test_a_plain_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5, "look") == b"12345"
    with pytest.raises(NewsloraError) as caught:
        read_bytes(tmp_path / "a", 4, "look")
    assert str(caught.value) == f"{tmp_path}/a: is larger than the 4 bytes that such a file may have; look"


def test_what_is_no_plain_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, reason in (
        ("gone", r"cannot be read \(No such file or directory\)"),
        ("link", r"cannot be read \(it is a link\)"),
        ("device", r"cannot be read \(it is a link\)"),
        ("pipe", "is no plain file"),
        ("folder", "is no plain file"),
    ):
        with pytest.raises(NewsloraError, match=rf"{name}: {reason}; look$"):
            read_bytes(tmp_path / name, 5, "look")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not readable as JSON"),
        (b"{", "is not readable as JSON"),
        (b"\xff", "is not readable as JSON"),
        (b"[" * 100_000, "is not readable as JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not readable as JSON"),
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(NewsloraError, match=rf"a: {reason}; look$"):
        read_json(tmp_path / "a", 1 << 20, "look")


def test_a_json_object_is_read(tmp_path: Path) -> None:
    write_text(tmp_path / "a", '{"b": [1, "é"]}')
    assert read_json(tmp_path / "a", 99, "look") == {"b": [1, "é"]}
