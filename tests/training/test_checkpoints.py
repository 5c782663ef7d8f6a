import json
import os
import shutil
from pathlib import Path

import pytest

from newslora.errors import NewsloraError
from newslora.training import checkpoints
from newslora.training.checkpoints import clear_staged, find_checkpoint, read_checkpoint, write_best, write_checkpoint

FILES = {"state.json": b'{"a": 1}', "trainable.safetensors": bytes(range(256))}


def test_what_is_written_is_found(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "none") is None
    path = write_checkpoint(tmp_path, FILES, step=3)
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert (found.path, found.files, found.damaged) == (path, FILES, ())


def test_the_one_before_is_kept_and_no_more(tmp_path: Path) -> None:
    for step in range(4):
        write_checkpoint(tmp_path, {"state.json": b"%d" % step}, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "previous"]
    assert read_checkpoint(tmp_path / "last") == {"state.json": b"3"}
    assert read_checkpoint(tmp_path / "previous") == {"state.json": b"2"}


def test_of_two_at_one_step_the_last_is_taken(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_checkpoint(tmp_path, {"state.json": content}, step=7)
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert (found.path.name, found.files) == ("last", {"state.json": b"new"})


def test_best_is_replaced_and_never_resumed_from(tmp_path: Path) -> None:
    write_best(tmp_path, FILES, step=5)
    write_best(tmp_path, {"metrics.json": b"{}"}, step=9)
    assert read_checkpoint(tmp_path / "best") == {"metrics.json": b"{}"}
    assert find_checkpoint(tmp_path) is None


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["state.json", "trainable.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_damaged_last_is_passed_over(tmp_path: Path, name: str, damage: object) -> None:
    write_checkpoint(tmp_path, {**FILES, "state.json": b"old!"}, step=1)
    write_checkpoint(tmp_path, FILES, step=2)
    damage(tmp_path / "last" / name)  # type: ignore[operator]
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.files["state.json"] == b"old!"
    assert found.damaged == (tmp_path / "last",)


def test_when_all_are_damaged_the_reason_is_given(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, FILES, step=1)
    flip(tmp_path / "last" / "state.json")
    with pytest.raises(NewsloraError, match=r"last: damaged checkpoint, state\.json does not match its checksum"):
        find_checkpoint(tmp_path)


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "checkpoints", FILES, step=1)
    (tmp_path / "secret").write_bytes(b"secret")
    (path / "manifest.json").write_text(json.dumps({"version": 1, "step": 1, "files": {"../../secret": "0"}}))
    with pytest.raises(NewsloraError, match="outside it"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", ["{", "{}", '{"version": 2, "step": 1, "files": {}}'])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    path = write_checkpoint(tmp_path, FILES, step=1)
    (path / "manifest.json").write_text(content)
    with pytest.raises(NewsloraError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"{path}: damaged checkpoint, manifest.json is not what was written"
    (path / "manifest.json").unlink()
    with pytest.raises(NewsloraError, match=r"manifest\.json: cannot be read \(.*\); the checkpoint is damaged$"):
        read_checkpoint(path)


class Killed(BaseException):
    """Stands for a process that ends on the spot."""


def kill(*_: object, **__: object) -> None:
    raise Killed


@pytest.fixture
def nothing_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    # A killed process cleans nothing up.
    monkeypatch.setattr("newslora.files._remove", lambda _: None)


def test_killed_before_the_manifest_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_cleaned: None
) -> None:
    write_checkpoint(tmp_path, FILES, step=1)
    monkeypatch.setattr(checkpoints._Manifest, "model_dump_json", kill)
    with pytest.raises(Killed):
        write_checkpoint(tmp_path, {"state.json": b"new"}, step=2)
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert (found.path.name, found.files) == ("last", FILES)
    assert found.damaged == ()


@pytest.mark.parametrize("staged_survives", [True, False])
def test_killed_between_the_renames_goes_on_from_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_cleaned: None, staged_survives: bool
) -> None:
    write_checkpoint(tmp_path, FILES, step=1)
    monkeypatch.setattr("newslora.files._commit", kill)
    with pytest.raises(Killed):
        write_checkpoint(tmp_path, {"state.json": b"new"}, step=2)
    assert not (tmp_path / "last").exists()
    if not staged_survives:
        (next(tmp_path.glob(".last.*")) / "manifest.json").unlink()
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.files == ({"state.json": b"new"} if staged_survives else FILES)


def test_killed_in_the_first_write_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_cleaned: None
) -> None:
    monkeypatch.setattr(checkpoints._Manifest, "model_dump_json", kill)
    with pytest.raises(Killed):
        write_checkpoint(tmp_path, FILES, step=1)
    assert find_checkpoint(tmp_path) is None


def test_clear_staged_removes_leftovers_alone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, FILES, step=1)
    shutil.copytree(tmp_path / "last", tmp_path / ".last.99.tmp")
    shutil.copytree(tmp_path / "last", tmp_path / ".best.99.old")
    (tmp_path / ".last.98.old").symlink_to(tmp_path / "last")
    (tmp_path / ".metrics.jsonl.99.tmp").write_text("half")
    (tmp_path / ".lock").touch()
    clear_staged(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "last"]
    assert read_checkpoint(tmp_path / "last") == FILES


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, FILES, step=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NewsloraError, match="No space left on device"):
        write_checkpoint(tmp_path, FILES, step=2)
    assert [p.name for p in tmp_path.iterdir()] == ["last"]
    assert read_checkpoint(tmp_path / "last") == FILES


def test_links_in_a_checkpoint_are_not_followed(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "checkpoints", FILES, step=1)
    (tmp_path / "elsewhere").write_bytes(FILES["state.json"])
    (path / "state.json").unlink()
    (path / "state.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NewsloraError, match=r"state\.json: cannot be read \(it is a link\); the checkpoint is damaged"):
        read_checkpoint(path)


def test_a_manifest_of_any_size_is_not_read(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, FILES, step=1)
    os.truncate(path / "manifest.json", 1 << 40)
    with pytest.raises(NewsloraError, match="larger than the 1,048,576 bytes"):
        read_checkpoint(path)
