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
    numbers = {name: int(i) for i, name in labels.items() if i.isdigit()} if isinstance(labels, dict) else None
    (folder / "config.json").write_text(json.dumps({"id2label": labels, "label2id": numbers}))


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
    with pytest.raises(
        NewsloraError, match=rf"newslora\.json: max_length is '{length}': Input should be a valid integer"
    ):
        read_about(folder)


@pytest.mark.parametrize("labels", [None, {}, ["a", "b"], {"0": "a", "2": "b"}, {"a": "b"}, {"1": "a", "2": "b"}])
def test_labels_that_leave_a_number_without_a_name_are_refused(labels: object, folder: Path) -> None:
    write_names(folder, labels)
    with pytest.raises(NewsloraError, match=r"config\.json: id2label does not name labels 0, 1, …; give the adapter"):
        read_about(folder)


@pytest.mark.parametrize("labels", [{"0": "a", "1": "a"}, {"0": "a", "1": 5}])
def test_labels_that_cannot_be_told_apart_are_refused(labels: object, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"id2label": labels, "label2id": {"a": 0}}))
    with pytest.raises(NewsloraError, match="id2label holds two equal names, or one that is no text"):
        read_about(folder)


def test_two_orders_of_the_labels_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}))
    with pytest.raises(NewsloraError, match=r"config\.json: id2label and label2id order the labels differently; give"):
        read_about(folder)


@pytest.mark.parametrize("place", ["../models/x", "/models/../x", "models/a/b", "~/x", "http://host/x", "/a\0b", ""])
def test_a_backbone_that_leads_on_from_another_place_is_refused(place: str, folder: Path) -> None:
    write_about(folder, IDENTITY | {"backbone": place}, 37)
    with pytest.raises(NewsloraError, match="is neither a hub id nor a whole path"):
        read_about(folder)


@pytest.mark.parametrize("place", ["minilm", "some/model-v1.0", "/models/x y/z"])
def test_ids_aliases_and_whole_paths_are_accepted(place: str, folder: Path) -> None:
    write_about(folder, IDENTITY | {"backbone": place}, 37)
    assert read_about(folder).identity["backbone"] == place


@pytest.mark.parametrize(
    ("name", "value"),
    [("weights_sha256", "xyz"), ("commit", "main; rm"), ("revision", 5), ("more", 1), ("backbone", None)],
)
def test_an_identity_of_another_form_is_refused(name: str, value: object, folder: Path) -> None:
    (folder / "newslora.json").write_text(json.dumps(IDENTITY | {"max_length": 37, name: value}))
    with pytest.raises(NewsloraError, match=rf"newslora\.json: {name} is"):
        read_about(folder)


def test_a_huge_file_is_not_read(folder: Path) -> None:
    (folder / "config.json").write_text(" " * (1 << 24) + "{}")
    with pytest.raises(NewsloraError, match="larger than the 16,777,216 bytes"):
        read_about(folder)
