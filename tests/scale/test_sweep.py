"""A sweep on Ray is the local engine's search, whatever happens to its workers."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from optuna.trial import TrialState
from tests.newsroom import articles, write_table
from tests.soak.ray_sweep import figures, finished, trials
from tests.soak.ray_workers import find_workers

from newslora.cli.main import main
from newslora.errors import NewsloraError
from newslora.scale.sweep import _Worker, sweep_on_ray
from newslora.search.space import Space, read_space
from newslora.search.sweep import TrialDone, sweep


@pytest.fixture
def settings(tmp_path: Path, news_backbone: Path) -> Path:
    tree: dict[str, Any] = {"data": {"train": str(write_table(tmp_path / "train.csv", articles(200)))}}
    tree |= {"model": {"backbone": str(news_backbone), "head": "linear"}, "train": {"epochs": 6, "lr": 0.01}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree | {"search": {"lora.r": [1, 2], "lora.alpha/r": [1, 8]}}))
    return tmp_path / "sweep.yaml"


@pytest.fixture
def space(settings: Path) -> Space:
    return read_space(settings, None, {})


@pytest.mark.slow
def test_a_killed_worker_costs_no_finished_trial(tmp_path: Path, space: Space, ray_here: None) -> None:
    output, before, seen = tmp_path / "sweep", dict[str, int](), list[TrialDone]()
    local = {key: figures(trial) for key, trial in finished(sweep(space, tmp_path / "local").journal.parent)}

    def kill() -> None:
        while not finished(output) or (victim := in_trial(output)) is None:
            time.sleep(0.02)
        before.update({key: trial.number for key, trial in finished(output)})
        victim.kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    board = sweep_on_ray(space, output, workers=2, report=seen.append)
    assert not thread.is_alive()
    after = finished(output)
    assert {key: figures(trial) for key, trial in after} == local
    assert len(after) == len(board.done()) == len(seen) == 4
    assert before
    assert before.items() <= {key: trial.number for key, trial in after}.items()
    assert [trial.state for trial in trials(output) if "key" in trial.user_attrs].count(TrialState.FAIL) == 1
    assert {file.name for file in output.iterdir()} >= {"best.yaml", "trials.csv", "table.md", "figures"}
    assert sweep_on_ray(space, output, workers=2, report=seen.append).finished() == 4
    assert len(seen) == 4


def in_trial(output: Path) -> psutil.Process | None:
    """Return a worker that has a trial under way, which it holds a lock for."""
    under_way = {trial.number for trial in trials(output) if trial.state == TrialState.RUNNING}
    locks = {str(output / "journal.log.running" / str(number)) for number in under_way}
    for worker in find_workers(os.getpid(), "_Worker"):
        if locks & {file.path for file in worker.open_files()}:
            return worker
    return None


def test_a_fault_of_the_settings_is_handed_over(tmp_path: Path, settings: Path) -> None:
    tree = yaml.safe_load(settings.read_text()) | {"search": {"lora.layers": ["7"]}}
    settings.write_text(yaml.safe_dump(tree))
    worker = _Worker(str(Path.cwd()), read_space(settings, None, {}), tmp_path / "sweep", {})
    done, fault = worker.next()
    assert done is None
    assert fault is not None
    assert "lora.layers" in fault
    assert "\n" not in fault


def test_a_fault_of_the_table_is_told_before_ray_is_started(tmp_path: Path, space: Space) -> None:
    (tmp_path / "train.csv").write_text("label,text\nFarming,\n")
    with pytest.raises(NewsloraError, match=r"train\.csv"):
        sweep_on_ray(space, tmp_path / "sweep")


def test_without_ray_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("newslora.scale.importlib.util.find_spec", lambda name: None if name == "ray" else name)
    assert main(["sweep", str(settings), "--output", str(tmp_path / "sweep"), "--engine", "ray"]) == 2
    assert "newslora sweep --engine ray: Ray is not installed" in capsys.readouterr().err
