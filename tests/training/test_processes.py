"""Runs killed outright, and what processes that train together say to each other; each starts Python anew: slow."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_config, outcome

from newslora.training.run_folder import RunFolder

SCRIPT = Path(__file__).parent / "tiny.py"

pytestmark = pytest.mark.slow


def start(path: Path, settings: dict[str, Any], *options: str, **env: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(SCRIPT), str(path), json.dumps(settings), *options]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", **env})


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start_two(path: Path, settings: dict[str, Any], *options: str) -> list[subprocess.Popen[bytes]]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    return [start(path, settings, *options, RANK=str(r), LOCAL_RANK=str(r), **place) for r in range(2)]


def run_two(path: Path, settings: dict[str, Any], *options: str) -> None:
    assert [process.wait(120) for process in start_two(path, settings, *options)] == [0, 0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alone") / "run"
    assert start(path, {"batch_size": 16}).wait(120) == 0
    return path


@pytest.mark.slow
def test_two_processes_train_what_one_does(alone: Path, tmp_path: Path) -> None:
    settings = {"batch_size": 8}
    run = RunFolder.create(tmp_path / "two", make_config(**settings))
    run_two(run.path, settings)
    ours, theirs = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (run.path, alone))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-4)
    for mine, other in zip(run.metrics(), RunFolder(alone).metrics(), strict=True):
        for name in ("epoch", "step", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1"):
            assert mine[name] == pytest.approx(other[name], rel=1e-4)


SETTINGS = {"epochs": 25, "batch_size": 4}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = RunFolder.create(tmp_path_factory.mktemp("two") / "run", make_config(**SETTINGS))
    run_two(run.path, SETTINGS)
    return run.path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_processes_stopped_go_on_exactly(two: Path, tmp_path: Path, number: int) -> None:
    path = RunFolder.create(tmp_path / "run", make_config(**SETTINGS)).path
    processes = start_two(path, SETTINGS)
    wait_for_epoch(path, 4, processes[0])
    processes[0].send_signal(number)
    if number == signal.SIGTERM:
        assert [process.wait(60) for process in processes] == [143, 143]
    for process in processes:
        process.kill()
        process.wait()
    assert len(RunFolder(path).metrics()) < SETTINGS["epochs"]
    run_two(path, SETTINGS, "--resume")
    assert outcome(path) == outcome(two)


@pytest.mark.slow
def test_killed_at_any_moment_a_run_goes_on_exactly(tmp_path: Path) -> None:
    assert start(tmp_path / "whole", SETTINGS).wait(120) == 0
    process = start(tmp_path / "killed", SETTINGS)
    wait_for_epoch(tmp_path / "killed", 5, process)
    process.kill()
    process.wait()
    assert len(RunFolder(tmp_path / "killed").metrics()) < SETTINGS["epochs"]
    assert start(tmp_path / "killed", SETTINGS, "--resume").wait(120) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


TALK = """
import os, sys
from newslora.errors import NewsloraError
from newslora.training import processes
rank = processes.start_processes().process_index

def tell(what, make):
    try:
        answer = make()
    except NewsloraError as error:
        answer = f"error: {error}"
    print(rank, what, answer, flush=True)

def fail(where):
    if rank == where:
        raise NewsloraError(f"no room on {where}")
    return rank

tell("main", lambda: processes.from_main(lambda: f"made by {rank}"))
tell("agreed", lambda: processes.agreed(lambda: rank))
for where in (0, 1):
    tell("main fails", lambda: processes.from_main(lambda: fail(where)))
    tell("one fails", lambda: processes.agreed(lambda: fail(where)))
import torch
weight = torch.nn.Parameter(torch.full((2, 2), float(rank + 5)))
processes.share_weights([weight])
print(rank, "weights", weight.unique().tolist(), flush=True)
if rank == 1:
    os._exit(9)
tell("lost", lambda: processes.from_main(lambda: 1) and processes.agreed(lambda: 1))
"""


def test_a_fault_of_one_process_ends_all_with_one_message_and_a_lost_one_is_told_of(tmp_path: Path) -> None:
    script = tmp_path / "talk.py"
    script.write_text(TALK)
    place = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    place["MASTER_PORT"] = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env=place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 9]
    for rank in range(2):
        assert said[rank][:7] == [
            f"{rank} main made by 0", f"{rank} agreed {rank}", f"{rank} main fails error: no room on 0",
            f"{rank} one fails error: no room on 0", f"{rank} main fails 0", f"{rank} one fails error: no room on 1",
            f"{rank} weights [5.0]",
        ]  # fmt: skip
    assert said[0][7].startswith("0 lost error: another process of this run was lost (")
    assert said[0][7].endswith("look at its last words, then train on with --resume")


def wait_for_epoch(path: Path, epoch: int, process: subprocess.Popen[bytes]) -> None:
    while len(RunFolder(path).metrics()) < epoch:
        assert process.poll() is None
        time.sleep(0.01)
