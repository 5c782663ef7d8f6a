"""``torchrun`` and ``accelerate launch``: two processes train what one does, and speak with one voice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.newsroom import articles, write_table
from torch import tensor
from torch.nn.functional import cross_entropy

from newslora.data.encoding import encode
from newslora.data.prepare import prepare
from newslora.model.classifier import load_model, predict_logits
from newslora.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

COMMON = ["--data.validation_share", "0.2", "--model.head", "full", "--lora.targets", "all-linear", "--lora.r", "4"]
# The random backbone's features all but agree, so that a warm head would blow up the last digit of every sum.
COMMON += ["--train.lr", "2e-3", "--train.warm_head", "false", "--data.near_duplicates", "false"]
EXACT = ("epoch", "step", "lr", "val_accuracy", "val_macro_f1")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
ACCELERATE += ("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1")


@pytest.fixture(scope="module")
def settings(news_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Tables of odd size: 131 of 164 rows are left to train on, the last batch holds 3."""
    folder = tmp_path_factory.mktemp("tables")
    train = write_table(folder / "train.csv", articles(164))
    test = write_table(folder / "test.csv", articles(37, seed=1))
    return ["--data.train", str(train), "--data.test", str(test), "--model.backbone", str(news_backbone), *COMMON]


def launch(launcher: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    # accelerate takes --module as an option of its own, torchrun as -m.
    flag = ["-m"] if launcher else []
    start = [sys.executable, "-m", *launcher, *flag, "newslora.cli.main", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(start, env=environment, capture_output=True, text=True, timeout=300, check=False)


def train(launcher: tuple[str, ...], output: Path, *arguments: str) -> RunFolder:
    done = launch(launcher, "train", "--output", str(output), *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1: ") == (0 if "--resume" in arguments else 1)
    return RunFolder(output)


@pytest.fixture(scope="module")
def alone(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    place = tmp_path_factory.mktemp("alone") / "run"
    return train((), place, "--train.batch_size", "8", "--train.epochs", "12", *settings)


@pytest.fixture(scope="module")
def two(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    place = tmp_path_factory.mktemp("two") / "run"
    return train(TORCHRUN, place, "--train.batch_size", "4", "--train.epochs", "12", *settings)


def test_two_processes_have_the_loss_curve_of_one(alone: RunFolder, two: RunFolder) -> None:
    curves = [np.array([row["train_loss"] for row in run.steps()]) for run in (alone, two)]
    assert alone.metrics()[-1]["step"] == two.metrics()[-1]["step"] >= 200
    assert curves[0][-1] < 0.5 * curves[0][0]  # there was something to learn
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    for one, other in zip(alone.metrics(), two.metrics(), strict=True):
        assert [one[name] for name in EXACT] == [other[name] for name in EXACT]
        for name in ("train_loss", "val_loss"):
            assert other[name] == pytest.approx(one[name], rel=1e-5)


def test_two_processes_have_the_evaluation_of_one(alone: RunFolder, two: RunFolder) -> None:
    one, other = (json.loads(run.evaluation_file.read_text()) for run in (alone, two))
    for name in ("n", "accuracy", "macro_f1", "confusion_matrix", "per_class"):
        assert one[name] == other[name]


def test_what_two_processes_validated_is_exactly_what_one_computes(two: RunFolder) -> None:
    model, config = load_model(two.adapter), two.config()
    split = prepare(config.data, model.tokenizer, config.train.seed).validation
    logits = predict_logits(model, encode(split.texts, model.tokenizer, model.max_length))
    best = max(two.metrics(), key=lambda row: row["val_macro_f1"])
    loss = cross_entropy(tensor(logits).double(), tensor(split.labels)).item()
    assert loss == pytest.approx(best["val_loss"], rel=1e-6)  # the head's update was folded when it was saved
    assert float(np.mean(logits.argmax(axis=1) == split.labels)) == best["val_accuracy"]


def test_accelerate_launches_it_too(two: RunFolder, settings: list[str], tmp_path: Path) -> None:
    run = train(ACCELERATE, tmp_path / "run", "--train.batch_size", "4", "--train.epochs", "1", *settings)
    assert run.config().train.epochs == 1
    assert run.evaluation_file.exists()


def errors(text: str) -> list[str]:
    return re.findall(r"^error: .*$", text, flags=re.MULTILINE)


def test_a_fault_is_told_once_and_ends_both(settings: list[str], alone: RunFolder, tmp_path: Path) -> None:
    taken = launch(TORCHRUN, "train", "--output", str(alone.path), *settings)
    missing = launch(TORCHRUN, "train", "--output", str(tmp_path / "run"), *settings, "--data.train", "gone.csv")
    assert taken.returncode != 0 != missing.returncode
    assert errors(taken.stderr) == [f"error: {alone.path} exists; choose another --output or add --resume"]
    assert len(errors(missing.stderr)) == 1
    assert "gone.csv" in errors(missing.stderr)[0]
    assert not (tmp_path / "run").exists()
    for done in (taken, missing):
        assert "newslora/workflow.py" not in done.stderr  # the launcher shows its own traceback, never ours


def test_a_process_killed_ends_the_other_and_the_run_goes_on(
    two: RunFolder, settings: list[str], tmp_path: Path
) -> None:
    arguments = ["train", "--output", str(tmp_path / "run"), "--train.batch_size", "4", "--train.epochs", "12"]
    start = [sys.executable, "-m", *TORCHRUN, "-m", "newslora.cli.main", *arguments, *settings]
    with subprocess.Popen(start, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as launcher:
        while len(RunFolder(tmp_path / "run").metrics()) < 3:
            assert launcher.poll() is None
            time.sleep(0.05)
        os.kill(workers(launcher.pid)[1], signal.SIGKILL)
        stderr = launcher.communicate(timeout=120)[1]
    assert launcher.returncode != 0
    assert len(errors(stderr)) <= 1
    train(TORCHRUN, tmp_path / "run", "--resume", *arguments[3:], *settings)
    assert same(tmp_path / "run") == same(two.path)


def workers(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ranked = {}
    for child in map(int, children):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranked[next(int(word[5:]) for word in environment if word.startswith(b"RANK="))] = child
    return [ranked[rank] for rank in sorted(ranked)]


def same(path: Path) -> tuple[bytes, list[dict[str, Any]]]:
    rows = [
        {name: value for name, value in row.items() if name not in ("seconds", "samples_per_second")}
        for row in RunFolder(path).metrics()
    ]
    return (path / "adapter" / "adapter_model.safetensors").read_bytes(), rows


def test_the_settings_written_are_those_given(two: RunFolder) -> None:
    assert yaml.safe_load(two.config_file.read_text())["train"]["batch_size"] == 4
