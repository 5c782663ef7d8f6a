"""Training on a stream: the steps asked for, and after a stop in the middle of a window the bytes of a whole run."""

import json
from pathlib import Path

import pytest
from tests.data.test_streaming import _no_waiting, write_folder  # noqa: F401 - a fixture

from newslora.config import RunConfig
from newslora.data.prepare import Prepared
from newslora.errors import NewsloraError
from newslora.training.progress import Event, StepDone
from newslora.workflow import Built, train

STEPS = 23


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the project catches it."""


def settings(folder: Path, backbone: Path, **more: object) -> RunConfig:
    steps = {"steps": STEPS, "epochs": 3, "batch_size": 16, "checkpoint_steps": 1, "lr": 0.01}
    data = {"train": str(folder), "streaming": True, "buffer": 64, "max_length": 32, "validation_share": 0.2}
    return RunConfig.from_dict({"data": data, "model": {"backbone": str(backbone)}, "train": steps | more})


def outcome(path: Path) -> tuple[bytes, str, list[dict[str, object]]]:
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    metrics = [
        {name: value for name, value in row.items() if name not in ("seconds", "samples_per_second")} for row in rows
    ]
    return (path / "adapter" / "adapter_model.safetensors").read_bytes(), (path / "steps.jsonl").read_text(), metrics


def stop_after(step: int) -> object:
    def report(event: Event | Prepared | Built) -> None:
        if isinstance(event, StepDone) and event.step > step:
            raise Killed

    return report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("stream") / "news")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, folder: Path, news_backbone: Path) -> Path:
    return train(settings(folder, news_backbone), tmp_path_factory.mktemp("runs") / "whole").path


def test_a_run_takes_its_steps(whole: Path) -> None:
    rows = outcome(whole)[2]
    assert [row["step"] for row in rows] == [7, 15, 23]
    assert "first rows of a stream" in (whole / "README.md").read_text()


@pytest.mark.parametrize("step", [0, 2, 7, 14, 22])
def test_stopped_anywhere_the_bytes_are_the_same(
    tmp_path: Path, folder: Path, news_backbone: Path, whole: Path, step: int
) -> None:
    config = settings(folder, news_backbone)
    with pytest.raises(Killed):
        train(config, tmp_path / "run", report=stop_after(step))  # type: ignore[arg-type]
    train(config, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(whole)


def test_what_cannot_be_gone_on_with(tmp_path: Path, folder: Path, news_backbone: Path) -> None:
    with pytest.raises(Killed):
        train(settings(folder, news_backbone), tmp_path / "run", report=stop_after(2))  # type: ignore[arg-type]
    for more in ({"epochs": 4}, {"steps": 99}):
        with pytest.raises(NewsloraError, match="cannot resume, train"):
            train(settings(folder, news_backbone, **more), tmp_path / "run", resume=True)
