"""Invented news of five topics, and an encoder small enough to be trained on them in a second."""

import csv
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from newslora.model.backbone import quiet_transformers

TOPICS = {
    "Courts": "judge verdict appeal jury trial lawyer sentence witness ruling bench".split(),
    "Farming": "harvest barley tractor drought orchard cattle soil seed irrigation barn".split(),
    "Shipping": "harbour cargo tanker crane dock captain freight vessel port anchor".split(),
    "Theatre": "stage actor premiere curtain rehearsal playwright audience costume scene applause".split(),
    "Weather": "storm rainfall gale thunder frost snow forecast flood breeze temperature".split(),
}
FILLERS = "the a on in of for and near after with new old early late many two his her their last".split()
Article = tuple[str, str]


def articles(count: int, seed: int = 0, topics: int = 5) -> list[Article]:
    """Return (topic, text) pairs, topic after topic; every text is its own."""
    draw = random.Random(seed)
    names = list(TOPICS)[:topics]
    texts = [[draw.choice(TOPICS[names[i % topics]] if draw.random() < 0.5 else FILLERS) for _ in range(draw.randint(8, 20))]
             for i in range(count)]  # fmt: skip
    return [(names[i % topics], " ".join(words).capitalize() + ".") for i, words in enumerate(texts)]


def write_table(path: Path, rows: list[Article], header: tuple[str, str] = ("label", "text")) -> Path:
    """Write rows as a CSV file with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows every word of the articles."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLERS, *(word for topic in TOPICS.values() for word in topic), "."]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **specials)


def make_backbone(folder: Path, width: int = 32) -> Path:
    """Write a BERT with random weights and its tokenizer."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=160, **sizes))
    for name, parameter in model.named_parameters():  # away from the all but linear start
        torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.2)
    with quiet_transformers():
        model.save_pretrained(folder)
    return folder
