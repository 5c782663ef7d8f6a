"""Shapes of hub data sets: Parquet with its own features, a default configuration of another name, no card, a script."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.hub.conftest import ask
from tests.hub.server import Files, Hub, Repo, serving

COMMIT = "a" * 40
CARD = b"""---
configs:
- {config_name: long, data_files: long.parquet}
- {config_name: short, data_files: short.parquet, default: true}
---
"""


def parquet(*texts: str) -> bytes:
    """Return a file whose features name the classes, with a column that is no text."""
    names = {"names": ["Money", "Sport"], "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": names}
    features["tags"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
    rows = range(len(texts))
    table = pa.table({"text": list(texts), "label": [row % 2 for row in rows], "tags": [["a", "b"] for _ in rows]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


SETS: dict[str, Files] = {
    "acme/news": {
        "README.md": CARD,
        "long.parquet": parquet("rates rise", "cup won"),
        "short.parquet": parquet("r", "c"),
    },
    "acme/CardlessNews": {"data/train-00000-of-00001.parquet": parquet("bonds", "goal")},
    "acme/script": {"script.py": b"import os, pathlib\npathlib.Path(os.environ['HF_HOME'], 'ran').touch()\n"},
}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    repos = {name: Repo({COMMIT: files}, {"main": COMMIT}) for name, files in SETS.items()}
    with serving({"models": {}, "datasets": repos}) as served:
        yield served


def rows(source: str, **settings: str) -> tuple[str, dict[str, str]]:
    return "rows", {"source": source, "split": "train", **settings}


def texts(answer: dict[str, Any]) -> list[str]:
    found: list[str] = answer["value"]["texts"]
    return found


def test_parquet_brings_its_classes_and_leaves_what_is_no_text(hub: Hub, tmp_path: Path) -> None:
    chosen, cardless = ask(hub.url, tmp_path, rows("acme/news", configuration="long"), rows("acme/CardlessNews"))
    assert texts(chosen) == ["rates rise", "cup won"]
    assert texts(cardless) == ["bonds", "goal"]
    for answer in (chosen, cardless):
        assert (answer["value"]["labels"], answer["value"]["classes"]) == (["Money", "Sport"], ["Money", "Sport"])
        assert answer["value"]["text_columns"] == ["text"]
    hub.log.clear()
    assert texts(ask(hub.url, tmp_path, rows("acme/CardlessNews"), offline=True)[0]) == ["bonds", "goal"]


def test_offline_another_configuration_is_not_taken_for_the_default(hub: Hub, tmp_path: Path) -> None:
    # datasets itself gives the one prepared last.
    default, chosen = rows("acme/news"), rows("acme/news", configuration="long")
    assert [texts(answer) for answer in ask(hub.url, tmp_path, chosen)] == [["rates rise", "cup won"]]
    [refused] = ask(hub.url, tmp_path, default, offline=True)
    assert refused["error"].startswith("acme/news: ")
    read = ask(hub.url, tmp_path, default, chosen)
    assert [texts(answer) for answer in read] == [["r", "c"], ["rates rise", "cup won"]]
    assert ask(hub.url, tmp_path, default, chosen, offline=True) == read


def test_a_script_is_refused_and_not_run(hub: Hub, tmp_path: Path) -> None:
    [refused] = ask(hub.url, tmp_path, rows("acme/script"))
    assert "acme/script: split train of the hub data set cannot be had (" in refused["error"]
    assert "\n" not in refused["error"]
    assert not (tmp_path / "ran").exists()


def test_offline_another_commit_is_not_taken_for_the_wanted_one(hub: Hub, tmp_path: Path) -> None:
    # datasets itself gives the one prepared last; the hub once told of a newer one, which was never read.
    assert [texts(answer) for answer in ask(hub.url, tmp_path, rows("acme/news"))] == [["r", "c"]]
    (tmp_path / "hub" / "datasets--acme--news" / "refs" / "main").write_text("b" * 40)
    [refused] = ask(hub.url, tmp_path, rows("acme/news"), offline=True)
    assert refused["error"] == f"acme/news: the cache holds commit {COMMIT}, not {'b' * 40}; go online once"
