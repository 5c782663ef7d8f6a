"""Prepared invented articles, and what the baselines make of them."""

from pathlib import Path

from tests.newsroom import articles, write_table

from newslora.config import RunConfig
from newslora.data.prepare import Prepared, prepare
from newslora.model.backbone import load_tokenizer


def prepared(folder: Path, backbone: Path, topics: int = 5) -> tuple[Prepared, RunConfig]:
    """Return training, validation and test rows, each of its own draw, and the settings they come from."""
    tables = {
        name: str(write_table(folder / f"{name}.csv", articles(count, seed, topics)))
        for name, count, seed in (("train", 200, 0), ("validation", 60, 1), ("test", 60, 2))
    }
    config = RunConfig.from_dict({"data": tables, "model": {"backbone": str(backbone)}})
    return prepare(config.data, load_tokenizer(str(backbone), None), 0), config
