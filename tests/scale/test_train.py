"""Training on Ray is the local engine's, whatever happens to its workers."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.train import ControllerError
from tests.soak.ray_training import reached
from tests.soak.ray_workers import find_workers
from tests.soak.training import outcome, pair, settings

from newslora.cli.main import main
from newslora.config import RunConfig, change
from newslora.data.story import RowCounts
from newslora.errors import Lost, NewsloraError
from newslora.scale import group
from newslora.scale import train as ray_train
from newslora.scale.group import Begun, Fault, Task, work
from newslora.scale.train import STARTS, _follow, train_on_ray
from newslora.training.progress import EpochDone, Restarted, Started, StepDone

KILL_AT = 20
# Ray sets settings that it has itself named old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`(use_|write_|target_|retried_).* (is|will be) deprecated:DeprecationWarning"
)


class Letters:
    """Stands for a mailbox."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, letter: object) -> None:
        self.sent.append(letter)


class Ended:
    """Stands for a group that has ended."""

    def is_alive(self) -> bool:
        return False

    def join(self, seconds: float) -> None:
        """Return at once."""


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return change(settings(tmp_path, "two"), {"train.epochs": 6}, "test")


def command(tmp_path: Path, config: RunConfig, *words: str) -> list[str]:
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return ["train", str(tmp_path / "settings.yaml"), "--output", str(tmp_path / "run"), *words]


def two_processes(config: RunConfig, tmp_path: Path, output: Path) -> list[subprocess.Popen[bytes]]:
    words = [*command(tmp_path, config), "--output", str(output)]
    start = [sys.executable, "-m", "newslora.cli.main", *words]
    return [subprocess.Popen(start, env=os.environ | place, stdout=subprocess.DEVNULL) for place in pair()]


def kill_one(run: Path) -> None:
    while reached(run) < KILL_AT:
        time.sleep(0.005)
    random.Random(0).choice(find_workers(os.getpid(), "RayTrainWorker")).kill()


@pytest.mark.slow
def test_a_killed_worker_changes_no_byte(tmp_path: Path, config: RunConfig, ray_here: None) -> None:
    local, seen = two_processes(config, tmp_path, tmp_path / "local"), list[Any]()
    threading.Thread(target=kill_one, args=[tmp_path / "run"], daemon=True).start()
    run = train_on_ray(config, tmp_path / "run", workers=2, report=seen.append)
    assert [process.wait(120) for process in local] == [0, 0]
    assert seen.count(Restarted()) == 1
    assert [message.step > 0 for message in seen if isinstance(message, Started)] == [False, True]
    assert next(message for message in seen if isinstance(message, RowCounts)).train == 82
    epochs = [message.metrics["epoch"] for message in seen if isinstance(message, EpochDone)]
    assert sorted(set(epochs)) == [1, 2, 3, 4, 5, 6]
    assert run.is_finished
    assert outcome(run.path) == outcome(tmp_path / "local")
    with pytest.raises(NewsloraError, match="the cluster has 3 cores"):
        train_on_ray(config, tmp_path / "wide", workers=4)
    assert not (tmp_path / "wide").exists()


@pytest.mark.slow
def test_a_fault_of_the_table_is_one_line(
    tmp_path: Path, config: RunConfig, ray_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "train.csv"
    table.write_text(table.read_text().replace("Farming", "", 1))
    words = command(tmp_path, config, "--engine", "ray", "--workers", "1")
    assert main(words) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "logging.cc" not in line]
    assert line.startswith(f"error: {table}:3: ")
    assert not (tmp_path / "run").exists()


def task(tmp_path: Path, config: RunConfig) -> tuple[Task, Letters]:
    letters = Letters()
    return Task(config, tmp_path / "run", str(tmp_path), letters), letters  # type: ignore[arg-type]


@pytest.mark.parametrize(("error", "bug"), [(NewsloraError("in.csv:3: no text"), False), (ValueError("odd"), True)])
def test_a_worker_tells_of_what_it_meets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: RunConfig, error: Exception, bug: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    own, letters = task(tmp_path, config)
    monkeypatch.setattr(group, "train", raising(error))
    work(own)
    begun, fault = letters.sent
    assert (begun, fault.bug) == (Begun(), bug)
    assert fault.text.splitlines()[-1] == (f"ValueError: {error}" if bug else str(error))


def test_a_worker_that_has_lost_another_fails_so_that_ray_starts_all_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: RunConfig
) -> None:
    monkeypatch.chdir(tmp_path)
    own, letters = task(tmp_path, config)
    monkeypatch.setattr(group, "train", raising(Lost("another process of this run was lost")))
    with pytest.raises(Lost):
        work(own)
    assert letters.sent == [Begun()]


def raising(error: Exception) -> Callable[..., None]:
    def train(*_: object, resume: bool, report: Callable[[object], None]) -> None:
        assert resume
        raise error

    return train


def test_steps_are_told_of_now_and_then() -> None:
    letters = Letters()
    report = group._Reporter(letters)  # type: ignore[arg-type]
    for step in range(1, 4):
        report(StepDone(step, 9, 0.1, 1.0, 0.1, 9.0, 1.0))
    report(Restarted())
    assert [type(letter) for letter in letters.sent] == [StepDone, Restarted]


def test_what_the_letters_say_is_told() -> None:
    seen = list[Any]()
    _follow(Ended(), lambda: [Begun(), Restarted(), Begun()], seen.append)  # type: ignore[arg-type]
    assert seen == [Restarted(), Restarted()]
    for bug, kind in ((False, NewsloraError), (True, RuntimeError)):
        with pytest.raises(kind, match="odd"):
            _follow(Ended(), lambda bug=bug: [Fault("odd", bug)], seen.append)  # type: ignore[arg-type, misc]


def test_where_workers_are_lost_while_they_start_the_cluster_is_joined_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: RunConfig
) -> None:
    joined, seen = list[int](), list[Any]()

    @contextmanager
    def cluster(workers: int) -> Iterator[int]:
        joined.append(workers)
        yield workers

    def fail(*_: object) -> None:
        if len(joined) < wanted:
            raise ControllerError(RuntimeError("a worker died"))

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(ray_train, "Mailbox", Empty)
    monkeypatch.setattr(ray_train, "cluster", cluster)
    monkeypatch.setattr(ray_train, "_scale", lambda *_: {})
    monkeypatch.setattr(ray_train, "_fit", fail)
    wanted = 3
    assert train_on_ray(config, tmp_path / "run", workers=2, report=seen.append).path == tmp_path / "run"
    assert (joined, seen) == ([2, 2, 2], [Restarted(), Restarted()])
    joined.clear()
    wanted = STARTS + 1
    with pytest.raises(NewsloraError, match="lost while they were starting"):
        train_on_ray(config, tmp_path / "other", workers=2)
    assert len(joined) == STARTS
    assert not (tmp_path / "other").exists()


class Empty:
    """Stands for a mailbox that nobody writes to."""

    def take(self) -> list[Any]:
        return []


def test_a_taken_folder_is_told_before_ray_is_started(tmp_path: Path, config: RunConfig) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    with pytest.raises(NewsloraError, match="add --resume"):
        train_on_ray(config, tmp_path / "run")
    with pytest.raises(NewsloraError, match="no such run folder"):
        train_on_ray(config, tmp_path / "none", resume=True)


def test_without_ray_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", "--output", "run", "--engine", "ray"]) == 2
    assert "newslora train --engine ray: Ray is not installed" in capsys.readouterr().err


def test_commands_on_this_machine_import_neither_ray_nor_a_compiler(tmp_path: Path, config: RunConfig) -> None:
    words, space = command(tmp_path, config, "--train.epochs", "1"), tmp_path / "sweep.yaml"
    space.write_text((tmp_path / "settings.yaml").read_text() + "search: {train.lr: [0.01]}\n")
    search = ["sweep", str(space), "--output", str(tmp_path / "sweep")]
    rows = ["--input", config.data.train, "--output", str(tmp_path / "predicted.csv")]
    code = f"""import sys
from newslora.cli.main import main
status = main({words!r}) + main({search!r}) + main(["predict", {str(tmp_path / "run")!r}, *{rows!r}])
import newslora.scale.predict, newslora.scale.sweep, newslora.scale.train
sys.exit(status + len({{"ray", "torch._inductor.compile_fx"}} & set(sys.modules)))"""
    place = {name: value for name, value in os.environ.items() if name != "TORCHDYNAMO_DISABLE"}
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, env=place).returncode == 0
    assert (tmp_path / "run" / "adapter").exists()
    assert (tmp_path / "sweep" / "best.yaml").exists()
    assert (tmp_path / "predicted.csv").exists()
