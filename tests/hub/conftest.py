"""A hub with a small model and a small data set, two revisions each, and processes of their own to read them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.hub.server import Files, Hub, Repo, serving
from tests.model.conftest import tiny_config, tiny_tokenizer
from transformers import AutoModel

from newslora.model.backbone import quiet_transformers

MODEL, PICKLED, CUSTOM, DATA = "newsroom/tiny-roberta", "newsroom/pickled", "newsroom/custom", "newsroom/briefs"
NEW, OLD = "c0ffee" + "0" * 34, "01d" + "0" * 37
TOPICS = ("Culture", "Health", "Travel")
CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train.csv}
  - {split: test, path: data/test.csv}
- config_name: letters
  data_files:
  - {split: train, path: letters.csv}
dataset_info:
- config_name: default
  features: &features
  - {name: text, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': Culture, '1': Health, '2': Travel}}}
- config_name: letters
  features: *features
---
"""


def rows(word: str, articles: int) -> bytes:
    """Return a CSV of articles whose words are their topic's own letters."""
    lines = (
        f"{word} {chr(97 + row % 3) * 2} {chr(97 + row % 9)} {'abcdefghi'[row % 7 :]},{row % 3}"
        for row in range(articles)
    )
    return "\n".join(["text,label", *lines, ""]).encode()
