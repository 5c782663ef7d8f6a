"""Processes that classify a file are killed by SIGKILL at random moments; the work of all of them is one output."""

import csv
import multiprocessing
import random
import time
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tests.conftest import WORDS

from newslora.inference.bulk import predict_file
from newslora.inference.classifier import NewsClassifier
from newslora.training.run_folder import RunFolder

ROWS, BLOCK = 4000, 8


def classify(run: str, source: str, output: str) -> None:
    predict_file(NewsClassifier.load(run), source, output, block=BLOCK)


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Processes that have imported everything before they start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["newslora.inference.bulk", "newslora.model.merged"])
    return context


def parts(output: Path) -> int:
    return len(list(output.with_name(f".{output.name}.parts").glob("part-*")))


def kill_somewhere(process: BaseProcess, output: Path, draw: random.Random) -> None:
    """Kill a process while it loads, or a few blocks after it began to write, within a block or between two."""
    more = parts(output) + draw.randint(0, 16)
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 0.3))
    else:
        while parts(output) <= more and process.is_alive():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))
    process.kill()
    process.join()
    assert process.exitcode == -9


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most"), [("csv", 10), ("parquet", 4)])
def test_kills_lose_nothing(
    tmp_path: Path, small_run: RunFolder, server: ForkServerContext, kind: str, most: int
) -> None:
    draw = random.Random(kind)
    with (tmp_path / "in.csv").open("w", newline="") as file:
        rows = ([i, " ".join(draw.choices(WORDS, k=draw.randint(2, 9)))] for i in range(ROWS))
        csv.writer(file).writerows([["id", "text"], *rows])
    whole, output = tmp_path / f"whole.{kind}", tmp_path / f"out.{kind}"
    for target, kills in ((whole, 0), (output, most)):
        for _ in range(kills):
            process = server.Process(target=classify, args=(str(small_run.path), str(tmp_path / "in.csv"), str(target)))
            process.start()
            kill_somewhere(process, target, draw)
            assert not target.exists()
        process = server.Process(target=classify, args=(str(small_run.path), str(tmp_path / "in.csv"), str(target)))
        process.start()
        process.join()
        assert process.exitcode == 0
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.csv", whole.name, output.name])
