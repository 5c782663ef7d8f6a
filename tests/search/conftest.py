"""A space to search over a tiny backbone and invented articles."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.newsroom import articles, write_table

from newslora.search.space import Space, read_space


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A training, a validation and a test table."""
    folder = tmp_path_factory.mktemp("tables")
    parts = (("train", 60, 0), ("validation", 40, 1), ("test", 20, 2))
    return {name: str(write_table(folder / f"{name}.csv", articles(rows, seed))) for name, rows, seed in parts}


@pytest.fixture
def make_space(tmp_path: Path, tables: dict[str, str], news_backbone: Path) -> Any:
    """Write a settings file with a search section and read it; keyword arguments are sections."""

    def make(search: dict[str, Any], **sections: dict[str, Any]) -> Space:
        tree = {"data": tables, "model": {"backbone": str(news_backbone), "head": "linear"}}
        tree |= {"train": {"epochs": 1, "lr": 0.01}, "search": search}
        for name, values in sections.items():
            tree[name] = tree.get(name, {}) | values
        file = tmp_path / "space.yaml"
        file.write_text(yaml.safe_dump(tree, sort_keys=False))
        return read_space(file, None, {})

    return make
