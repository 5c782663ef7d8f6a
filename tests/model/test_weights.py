import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from newslora.errors import NewsloraError
from newslora.model.backbone import identity, load_backbone
from newslora.model.weights import INDEX, WEIGHTS, sha256, shards, weights_digest


@pytest.fixture
def parted(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> Path:
    """A backbone whose weights stand in two files."""
    folder = Path(shutil.copytree(tiny_backbone("bert"), tmp_path / "parted"))
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def test_one_file_has_its_own_digest(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"abc")
    assert weights_digest(tmp_path) == sha256(tmp_path / WEIGHTS) == hashlib.sha256(b"abc").hexdigest()
    assert shards(tmp_path) == []


def test_without_weights_there_is_no_digest(tmp_path: Path) -> None:
    assert weights_digest(tmp_path) is None


def test_a_checkpoint_in_parts_is_loaded_and_told_from_another(parted: Path) -> None:
    load_backbone(str(parted), None, ("a", "b"), None)
    before = identity(str(parted), None)["weights_sha256"]
    assert before is not None
    part = parted / "model-00002-of-00002.safetensors"
    tensors = load_file(part)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, part, metadata={"format": "pt"})
    assert identity(str(parted), None)["weights_sha256"] != before


@pytest.mark.parametrize("place", ["../elsewhere.safetensors", "/etc/hostname", "model.bin", "gone.safetensors", ""])
def test_an_index_cannot_lead_elsewhere(parted: Path, place: str) -> None:
    (parted.parent / "elsewhere.safetensors").write_bytes(b"")
    (parted / "model.bin").write_bytes(b"")
    index = json.loads((parted / INDEX).read_text())
    index["weight_map"][min(index["weight_map"])] = place
    (parted / INDEX).write_text(json.dumps(index))
    with pytest.raises(NewsloraError, match="which is no safetensors file beside it; download the backbone again"):
        load_backbone(str(parted), None, ("a", "b"), None)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}', "[", "[]"])
def test_a_damaged_index_is_named(parted: Path, content: str) -> None:
    (parted / INDEX).write_text(content)
    with pytest.raises(NewsloraError, match=r"index\.json: .*; download the backbone again"):
        identity(str(parted), None)
