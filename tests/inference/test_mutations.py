"""A run folder that was altered is refused with a reason, or gives exactly the right answers; it never runs code."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.mutations import mutate

from newslora.errors import NewsloraError
from newslora.inference.classifier import NewsClassifier
from newslora.model.classifier import load_model
from newslora.training.run_folder import RunFolder

TEXTS = ["Market shares rise on talks", "coach wins", "the probe and the comet " * 5, "Troops fall"]
WATCHED: list[str] = []
OPENED: list[str] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    # Opening without following links is refused for a link, and so reads nothing.
    reads = event == "open" and WATCHED and not (isinstance(arguments[2], int) and arguments[2] & os.O_NOFOLLOW)
    if reads and isinstance(arguments[0], str | os.PathLike):
        path = os.path.realpath(arguments[0])
        OPENED.extend(path for watched in WATCHED if path.startswith(watched))


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def outside(small_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_outside(small_run, tmp_path_factory.mktemp("outside"))


def make_outside(run: RunFolder, place: Path) -> Path:
    """Make another run of the same shape, with other weights and labels, that nothing may read."""
    model = load_model(run.adapter)
    model.plain.config.id2label = dict(enumerate("abcd"))
    model.plain.config.label2id = {name: i for i, name in enumerate("abcd")}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.5)
    shutil.copytree(run.adapter, place / "adapter")
    model.save_adapter(place / "adapter")
    return place


@pytest.fixture(scope="module")
def right(small_run: RunFolder) -> np.ndarray:
    return NewsClassifier.load(small_run.path).predict_proba(TEXTS)


@pytest.fixture
def watched(outside: Path) -> Iterator[None]:
    yield
    WATCHED.clear()


def check(run: RunFolder, outside: Path, right: np.ndarray, place: Path, seed: int) -> tuple[str, str]:
    """Alter a copy of the run and ask it; return how it was altered, and ``refused``, ``right`` or what is wrong."""
    copy = Path(shutil.copytree(run.path, place / str(seed)))
    told = mutate(copy, outside, seed)
    OPENED.clear()
    WATCHED[:] = [str(outside)]
    result = ask(copy, right)
    WATCHED.clear()
    if OPENED or (outside / "ran").exists():
        result = f"read {OPENED} or ran code"
    shutil.rmtree(copy)
    return f"{seed} {told}", result


def ask(run: Path, right: np.ndarray) -> str:
    try:
        answers = NewsClassifier.load(run).predict_proba(TEXTS)
    except NewsloraError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:  # what no one may see
        return f"{type(error).__name__}: {error}"
    return "right" if np.array_equal(answers, right) else "other answers"


@pytest.mark.parametrize("start", range(0, 300, 60))
def test_altered_runs(
    small_run: RunFolder, outside: Path, right: np.ndarray, watched: None, tmp_path: Path, start: int
) -> None:
    results = dict(check(small_run, outside, right, tmp_path, seed) for seed in range(start, start + 60))
    assert {told: result for told, result in results.items() if result not in ("refused", "right")} == {}
    assert list(results.values()).count("refused") > 30
    assert "right" in results.values()  # so what is refused is refused for its fault


def test_the_watch_sees_what_is_read(outside: Path, watched: None) -> None:
    WATCHED.append(str(outside))
    OPENED.clear()
    (outside / "adapter" / "config.json").read_text()
    assert len(OPENED) == 1
