import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.model.conftest import VOCABULARY, random_model, tiny_config, tiny_tokenizer

from newslora.errors import NewsloraError
from newslora.model.backbone import load_backbone
from newslora.model.classifier import load_model
from newslora.model.limits import check_length, check_vocabulary
from newslora.model.seal import seal


@pytest.mark.parametrize(("kind", "most"), [("bert", 512), ("roberta", 158), ("xlm-roberta", 158), ("mpnet", 158)])
def test_articles_have_at_most_the_backbones_positions(kind: str, most: int) -> None:
    check_length(tiny_config(kind), most)  # type: ignore[arg-type]
    with pytest.raises(NewsloraError, match=rf"data\.max_length: {most + 1} exceeds this backbone's {most} positions"):
        check_length(tiny_config(kind), most + 1)  # type: ignore[arg-type]


def test_a_token_without_an_embedding_is_refused() -> None:
    tokenizer, config = tiny_tokenizer("bert"), tiny_config("bert")
    check_vocabulary(config, tokenizer)  # type: ignore[arg-type]
    tokenizer.add_tokens([f"word{i}" for i in range(VOCABULARY)])
    with pytest.raises(NewsloraError, match=rf"the backbone has embeddings below {VOCABULARY} alone"):
        check_vocabulary(config, tokenizer)  # type: ignore[arg-type]


def test_a_loaded_adapter_is_held_against_both(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    random_model(tiny_backbone("roberta")).save_adapter(tmp_path / "long")
    shutil.copytree(tmp_path / "long", tmp_path / "words")
    own = json.loads((tmp_path / "long" / "newslora.json").read_text())
    (tmp_path / "long" / "newslora.json").write_text(json.dumps(own | {"max_length": 159}))
    tokenizer = tiny_tokenizer("roberta")
    tokenizer.add_tokens([f"word{i}" for i in range(VOCABULARY)])
    tokenizer.save_pretrained(tmp_path / "words")
    for name, reason in (("long", "exceeds this backbone's 158"), ("words", "embeddings below")):
        seal(tmp_path / name)
        with pytest.raises(NewsloraError, match=reason):
            load_model(tmp_path / name)


def test_a_quantised_backbone_is_refused(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_backbone("bert"), tmp_path / "quantised"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(NewsloraError, match="its weights are quantised; give the backbone in full precision"):
        load_backbone(str(folder), None, ("a", "b"), None)
