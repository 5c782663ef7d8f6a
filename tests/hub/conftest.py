"""A hub with small models and a small data set, two revisions each, and processes of their own to read them."""

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from tests.hub.server import Files, Hub, Repo, serving
from tests.model.conftest import write_backbone

NEW, OLD = "c0ffee" + "0" * 34, "01d" + "0" * 37
REFS = {"main": NEW, "v1": OLD}
MODEL, PICKLED, CUSTOM, DATA = "newsroom/tiny-roberta", "newsroom/pickled", "newsroom/custom", "newsroom/briefs"
TOPICS = ["Culture", "Health", "Travel"]
CARD = b"""---
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


def briefs(seed: int, count: int) -> list[str]:
    """Return articles in words of the small tokenizer; row by row their topics follow each other."""
    draw = random.Random(seed)
    return [
        " ".join(f"{draw.choice('abc def ghi'.split()[row % 3])}{draw.choice('abcdefghi')}" for _ in range(8))
        for row in range(count)
    ]


def table(texts: list[str]) -> bytes:
    """Return a CSV file with a ``ClassLabel``'s codes."""
    return "\n".join(["text,label", *(f"{text},{row % 3}" for row, text in enumerate(texts)), ""]).encode()


def data_files(seed: int) -> Files:
    """Return what a revision of the data set holds."""
    tables = {
        "data/train.csv": briefs(seed, 90),
        "data/test.csv": briefs(seed + 1, 30),
        "letters.csv": briefs(seed + 2, 6),
    }
    return {"README.md": CARD} | {path: table(texts) for path, texts in tables.items()}


def model_files(folder: Path, seed: int) -> Files:
    """Return what a revision of the model holds."""
    write_backbone("roberta", folder, seed)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pickled(files: Files) -> Files:
    """Return a model whose weights are a pickle."""
    return {("pytorch_model.bin" if name.endswith(".safetensors") else name): body for name, body in files.items()}


def custom(files: Files) -> Files:
    """Return a model that brings code of its own, which leaves a mark when it is run."""
    classes = {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Model"}
    config = json.loads(files["config.json"]) | {"model_type": "own", "auto_map": classes}
    code = b"import os, pathlib\npathlib.Path(os.environ['HF_HOME'], 'ran').touch()\n"
    return files | {"config.json": json.dumps(config).encode(), "own.py": code}


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The hub, served while the tests run."""
    new, old = (model_files(tmp_path_factory.mktemp("model"), seed) for seed in (0, 1))
    models = {
        MODEL: Repo({NEW: new, OLD: old}, REFS),
        PICKLED: Repo({NEW: pickled(new)}, REFS),
        CUSTOM: Repo({NEW: custom(new)}, REFS),
    }
    data = {DATA: Repo({NEW: data_files(0), OLD: data_files(10)}, REFS)}
    with serving({"models": models, "datasets": data}) as served:
        yield served


@pytest.fixture
def down() -> str:
    """The address of a hub that is down."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a hub that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def run(url: str, home: Path, *command: str, offline: bool = False, given: str = "") -> CompletedProcess[str]:
    """Run a Python command against a hub, with a cache of its own."""
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline)), "OMP_NUM_THREADS": "1"}
    settings |= {"HF_HUB_ETAG_TIMEOUT": "2", "NEWSLORA_CACHE": str(home / "own"), "NO_PROXY": "127.0.0.1,localhost"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    words = [sys.executable, *command]
    return subprocess.run(words, env=kept | settings, input=given, capture_output=True, text=True, check=False)


def ask(url: str, home: Path, *queries: tuple[str, dict[str, str]], offline: bool = False) -> list[dict[str, Any]]:
    """Read from a hub through newslora, in one process; the answers are those of ``reader.py``."""
    reader = Path(__file__).with_name("reader.py")
    done = run(url, home, str(reader), offline=offline, given=json.dumps(queries))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
