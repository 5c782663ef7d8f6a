"""Small encoders of every family, with random weights, and batches of ragged articles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from newslora.config import RunConfig
from newslora.data.batches import Batch
from newslora.data.encoding import Encoded
from newslora.model.backbone import quiet_transformers
from newslora.model.classifier import NewsModel, build_model
from newslora.model.families import FAMILIES

WIDTH, LAYERS, HEADS, INNER, VOCABULARY = 32, 3, 4, 64, 120
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tiny_config(kind: str) -> object:
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
    }
    if kind == "distilbert":
        sizes = {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": INNER}
    if kind == "electra":
        sizes["embedding_size"] = 16
    if kind == "modernbert":
        sizes |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
        sizes |= {"local_attention": 16, "global_attn_every_n_layers": 2}
    if kind in ("roberta", "xlm-roberta", "mpnet"):
        sizes |= {"max_position_embeddings": 160, "pad_token_id": 1}
    if kind == "deberta-v2":
        sizes |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
        sizes["share_att_key"] = True  # as the published v3 models have it
    return AutoConfig.for_model(kind, vocab_size=VOCABULARY, **sizes)


def tiny_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    specials = (
        ["<s>", "<pad>", "</s>", "<unk>"]
        if kind in ("roberta", "xlm-roberta", "mpnet")
        else ["<pad>", "<unk>", "<s>", "</s>"]
    )
    words = [*specials, *LETTERS, *(a + b for a in LETTERS[:9] for b in LETTERS[:9])]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    pairs = [("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=pairs)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>"
    )


def write_backbone(kind: str, folder: Path, seed: int) -> None:
    """Write a backbone's folder: weights without a head, and a tokenizer."""
    torch.manual_seed(seed)
    with quiet_transformers():
        model = AutoModel.from_config(tiny_config(kind))
        for name, parameter in model.named_parameters():
            # Away from the all but linear start, where errors hide; norms about 1, or all articles look alike.
            gain = "norm" in name.lower() and name.endswith("weight")
            torch.nn.init.normal_(parameter, mean=float(gain), std=0.2)
        model.save_pretrained(folder)
        tiny_tokenizer(kind).save_pretrained(folder)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEWSLORA_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make, once a family, a backbone's folder: weights without a head, and a tokenizer."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            write_backbone(kind, folder, seed=list(FAMILIES).index(kind))
            made[kind] = folder
        return made[kind]

    return make


def ragged_batch(lengths: list[int], seed: int = 0) -> Batch:
    """Return random tokens in articles of the given lengths, longest first."""
    generator = np.random.default_rng(seed)
    ordered = sorted(lengths, reverse=True)
    ids = torch.from_numpy(generator.integers(5, VOCABULARY, sum(ordered)))
    labels = torch.from_numpy(generator.integers(0, 3, len(ordered)))
    return Batch(ids, tuple(ordered), tuple(range(len(ordered))), labels)


def ragged_articles(lengths: list[int], seed: int = 0) -> Encoded:
    """Return random tokens in articles of the given lengths, in the given order."""
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, sum(lengths), dtype=np.int32)
    return Encoded(ids, np.cumsum([0, *lengths]))


def random_model(backbone: Path, names: tuple[str, ...] = ("a", "b", "c"), **sections: dict[str, Any]) -> NewsModel:
    """Build a model in evaluation mode whose every trainable parameter is away from its start."""
    sections["model"] = {"backbone": str(backbone)} | sections.get("model", {})
    model = build_model(RunConfig.from_dict(sections), names).eval()
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.normal_(std=0.2)
    return model
