"""A tokenizer small enough to make in every test, and a cache of its own for each."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The central bank left its rate unchanged on Tuesday, surprising traders in Lagos.",
    "A late goal sent the visitors through to the regional cup final.",
    "Engineers at the observatory switched on a new radio telescope array.",
    "Ministers from nine countries signed a border agreement after long talks.",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEWSLORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that, like MiniLM's file, holds truncation and padding of its own."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    core.enable_truncation(6)
    core.enable_padding(length=6, pad_id=1, pad_token="<pad>")
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, cls_token="<s>", sep_token="</s>", **names)
