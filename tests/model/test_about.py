"""An adapter folder's own files are read as they were written, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from newslora.errors import NewsloraError
from newslora.model.about import About, read_about, write_about

IDENTITY = {"backbone": "some/model", "revision": None, "commit": "abc", "weights_sha256": "00ff"}
NAMES = tuple(f"topic {i}" for i in range(12))  # past nine, the order of "10" and "2" as text is another


def write_names(folder: Path, labels: Any) -> None:
    (folder / "config.json").write_text(json.dumps({"id2label": labels}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_about(tmp_path, IDENTITY, 37)
    write_names(tmp_path, {str(i): name for i, name in enumerate(NAMES)})
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    assert read_about(folder) == About(IDENTITY, NAMES, 37)


@pytest.mark.parametrize("name", ["newslora.json", "config.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_missing_or_damaged_file_is_named(name: str, content: bytes | None, folder: Path) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(NewsloraError, match="give the adapter folder of a run") as caught:
        read_about(folder)
    assert str(caught.value).startswith(f"{folder / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", ["all", None, 3.5])
def test_a_length_that_is_no_number_is_refused(length: object, folder: Path) -> None:
    (folder / "newslora.json").write_text(json.dumps(IDENTITY | {"max_length": length}))
    with pytest.raises(NewsloraError, match=r"newslora\.json: max_length is .*, not a number of tokens"):
        read_about(folder)


@pytest.mark.parametrize("labels", [None, {}, ["a", "b"], {"0": "a", "2": "b"}, {"a": "b"}, {"1": "a", "2": "b"}])
def test_labels_that_leave_a_number_without_a_name_are_refused(labels: object, folder: Path) -> None:
    write_names(folder, labels)
    with pytest.raises(NewsloraError, match=r"config\.json: id2label does not name labels 0, 1, …; give the adapter"):
        read_about(folder)
