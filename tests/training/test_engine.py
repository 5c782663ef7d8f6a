from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import LoggerType

from newslora.config import RunConfig, TrainConfig, setting_names
from newslora.errors import NewsloraError
from newslora.training import engine
from newslora.training.run_folder import RunFolder


def test_auto_is_fp32_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.resolve_precision("auto") == "fp32"
    assert engine.resolve_precision("bf16") == "bf16"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch, native: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert engine.resolve_precision("auto") == expected


def test_precision_may_change_from_run_to_run_in_one_process(tmp_path: Path) -> None:
    for precision, name in (("fp32", "no"), ("bf16", "bf16"), ("fp32", "no")):
        accelerator = engine.start_accelerator(TrainConfig(precision=precision), RunFolder(tmp_path))
        assert accelerator.mixed_precision == name


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has fp16")
def test_fp16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match=r"train\.precision: fp16 does not run on cpu"):
        engine.start_accelerator(TrainConfig(precision="fp16"), RunFolder(tmp_path))


def test_trackers_are_checked_by_name_and_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "get_available_trackers", lambda: [])
    with pytest.raises(NewsloraError, match="unknown tracker tensorbord; known: tensorboard, wandb, mlflow, trackio"):
        engine.start_accelerator(TrainConfig(trackers=("tensorbord",)), RunFolder(tmp_path))
    with pytest.raises(NewsloraError, match="the package wandb is not installed; pip install wandb"):
        engine.start_accelerator(TrainConfig(trackers=("wandb",)), RunFolder(tmp_path))


class RecordingTracker(GeneralTracker):
    name = "trackio"
    requires_logging_directory = False
    seen: list[Any]

    def __init__(self, run_name: str) -> None:
        super().__init__()
        RecordingTracker.seen = [run_name]

    @property
    def tracker(self) -> list[Any]:
        return self.seen

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.seen.append(values)

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.seen.append((step, values))

    def finish(self) -> None:
        self.seen.append("finished")


def use_recording_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "get_available_trackers", lambda: [LoggerType.TRACKIO])
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.TRACKIO])
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", RecordingTracker)


def test_trackers_get_the_settings_and_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_recording_tracker(monkeypatch)
    config = RunConfig.from_dict({"train": {"trackers": "trackio", "lr": 0.5}})
    accelerator = engine.start_accelerator(config.train, RunFolder(tmp_path))
    engine.start_trackers(accelerator, config)
    accelerator.log({"train_loss": 1.5}, step=3)
    engine.stop_trackers(accelerator)
    assert RecordingTracker.seen[1]["train.lr"] == 0.5
    assert RecordingTracker.seen[2:] == [(3, {"train_loss": 1.5}), "finished"]


def test_flat_settings_are_complete_and_plain() -> None:
    flat = engine.flat_settings(RunConfig())
    assert list(flat) == setting_names()
    assert flat["lora.targets"] == "['query', 'value']"
    assert flat["train.patience"] == "None"
    assert all(isinstance(value, str | int | float) for value in flat.values())
