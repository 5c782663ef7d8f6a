import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.model.conftest import random_model

from newslora.errors import NewsloraError
from newslora.model.classifier import load_model
from newslora.model.seal import check_seal, seal, seal_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "adapter"
    place.mkdir()
    (place / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    (place / "config.json").write_text("{}")
    seal(place)
    return place


def refused(folder: Path) -> str:
    with pytest.raises(NewsloraError) as caught:
        check_seal(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder.parent}/", "")


def test_what_is_sealed_is_accepted_and_writing_it_again_changes_nothing(folder: Path) -> None:
    check_seal(folder)
    before = (folder / "checksums.json").read_bytes()
    seal(folder)
    assert (folder / "checksums.json").read_bytes() == before


@pytest.mark.parametrize("place", [0, 128, 255])
def test_every_bit_counts(folder: Path, place: int) -> None:
    content = bytearray((folder / "adapter_model.safetensors").read_bytes())
    content[place] ^= 1
    (folder / "adapter_model.safetensors").write_bytes(content)
    assert refused(folder) == (
        "adapter/adapter_model.safetensors: does not match its checksum in checksums.json; use the run it came from"
    )


def test_a_file_that_is_missing_or_strange_is_named(folder: Path) -> None:
    (folder / "extra.json").write_text("{}")
    assert refused(folder) == "adapter/extra.json: is not among the files that checksums.json names; remove it"
    (folder / "extra.json").unlink()
    (folder / "config.json").unlink()
    assert refused(folder) == "adapter/config.json: is missing; use the run it came from"


def test_a_folder_inside_is_strange(folder: Path) -> None:
    shutil.copytree(folder, folder / "other")
    assert "adapter/other: is not among" in refused(folder)


@pytest.mark.parametrize("name", ["adapter_model.bin", "model.pt", "x.pkl"])
def test_a_pickle_is_refused_even_when_it_is_sealed(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x80")
    seal(folder)
    assert refused(folder) == (
        f"adapter/{name}: may be a pickle, which can run code; only safetensors are read, remove it"
    )


def test_what_is_for_people_and_what_is_hidden_may_stand_beside(folder: Path) -> None:
    for name in ("README.md", "LICENSE", ".gitattributes"):
        (folder / name).write_text("words")
    (folder / ".calibration.json.99.tmp").write_text("half")
    check_seal(folder)


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "same.json").write_text("{}")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "same.json")
    assert refused(folder) == "adapter/config.json: is a link; use the run it came from"
    (tmp_path / "linked").symlink_to(folder)
    with pytest.raises(NewsloraError, match="linked: is a link; give the folder that it leads to"):
        check_seal(tmp_path / "linked")


def test_a_hole_of_any_size_is_not_read(folder: Path) -> None:
    os.truncate(folder / "config.json", 1 << 40)
    assert "is larger than the 67,108,864 bytes that such a file may have" in refused(folder)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"version": 2, "files": {}}', '{"version": 1, "files": {"../x": {"bytes": 1, "sha256": "0"}}}',
     '{"version": 1, "files": {"a": {"bytes": -1, "sha256": "' + 64 * "0" + '"}}}', "[" * 99_999],
)  # fmt: skip
def test_a_seal_that_is_none(folder: Path, content: str) -> None:
    (folder / "checksums.json").write_text(content)
    assert refused(folder).startswith(
        "adapter/checksums.json: holds no checksums; use the run it came from, or, if you"
    )


def test_a_folder_without_a_seal(folder: Path) -> None:
    (folder / "checksums.json").unlink()
    assert refused(folder).startswith("adapter/checksums.json: cannot be read (No such file or directory); use the run")


def test_a_file_added_later_is_entered_and_the_others_stand(folder: Path) -> None:
    (folder / "calibration.json").write_text("1")
    (folder / "config.json").write_text("{} ")  # altered before: entering another must not make it good
    seal_file(folder, "calibration.json")
    assert "config.json: does not match" in refused(folder)
    (folder / "config.json").write_text("{}")
    check_seal(folder)


def test_a_model_checks_its_seal(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    random_model(tiny_backbone("bert")).save_adapter(tmp_path / "adapter")
    load_model(tmp_path / "adapter")
    (tmp_path / "adapter" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(NewsloraError, match=r"tokenizer_config\.json: does not match its checksum"):
        load_model(tmp_path / "adapter")
