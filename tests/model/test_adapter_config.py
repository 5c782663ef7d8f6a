"""Of peft's configuration only what newslora writes is accepted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.model.conftest import random_model
from transformers import AutoModelForSequenceClassification

from newslora.errors import NewsloraError
from newslora.model.adapter_config import read_adapter_config
from newslora.model.backbone import quiet_transformers
from newslora.model.families import FAMILIES


@pytest.fixture(scope="module")
def bert(tiny_backbone: Callable[[str], Path]) -> Any:
    with quiet_transformers():
        return AutoModelForSequenceClassification.from_pretrained(tiny_backbone("bert"))


@pytest.fixture
def folder(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> Path:
    random_model(tiny_backbone("bert"), lora={"r": 3, "alpha": 7, "dropout": 0.25}).save_adapter(tmp_path)
    return tmp_path


def change(folder: Path, **fields: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_what_newslora_writes_is_read(folder: Path, bert: Any) -> None:
    config = read_adapter_config(folder, bert, FAMILIES["bert"])
    stored = json.loads((folder / "adapter_config.json").read_text())
    for name in ("r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"):
        assert getattr(config, name) == stored[name]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 7, 0.25)
    assert set(config.modules_to_save) == set(stored["modules_to_save"])
    assert config.inference_mode


def test_a_field_of_another_peft_is_accepted_switched_off(folder: Path, bert: Any) -> None:
    change(folder, of_the_future=None, also_new=False, new_pattern={})
    read_adapter_config(folder, bert, FAMILIES["bert"])


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("of_the_future", "on", "of_the_future is on, which newslora never writes"),
        ("megatron_core", "os", "megatron_core is os, which newslora never writes"),
        ("megatron_config", {"a": 1}, "which newslora never writes"),
        ("init_lora_weights", "pissa", "which newslora never writes"),
        ("layer_replication", [[0, 1]], "which newslora never writes"),
        ("bias", "all", "which newslora never writes"),
        ("trainable_token_indices", [0], "which newslora never writes"),
        ("peft_type", "IA3", "peft_type: Input should be 'LORA'"),
        ("task_type", "CAUSAL_LM", "task_type: Input should be 'SEQ_CLS'"),
        ("r", 0, "r: Input should be greater than or equal to 1"),
        ("r", "8", "r: Input should be a valid integer"),
        ("r", True, "r: Input should be a valid integer"),
        ("lora_alpha", float("inf"), "lora_alpha: Input should be a finite number"),
        ("lora_dropout", 1.0, "lora_dropout: Input should be less than 1"),
        ("target_modules", "(a+)+$", r"'\(a\+\)\+\$' is no linear layer of the backbone"),
        ("target_modules", "classifier", "'classifier' is no linear layer of the backbone"),
        ("target_modules", ["query"], "target_modules: Input should be a valid string"),
        ("rank_pattern", {".*": 4}, r"'\.\*' is no linear layer of the backbone"),
        ("modules_to_save", ["score"], "which is not the head"),
        ("modules_to_save", ["classifier", "embeddings"], "which is not the head"),
    ],
)
def test_anything_else_is_refused(folder: Path, bert: Any, name: str, value: object, reason: str) -> None:
    change(folder, **{name: value})
    with pytest.raises(NewsloraError, match=rf"adapter_config\.json: .*{reason}.*; use the run it came from"):
        read_adapter_config(folder, bert, FAMILIES["bert"])


def test_a_huge_file_is_not_read(folder: Path, bert: Any) -> None:
    change(folder, padding=" " * (1 << 20))
    with pytest.raises(NewsloraError, match="larger than the 1,048,576 bytes"):
        read_adapter_config(folder, bert, FAMILIES["bert"])
