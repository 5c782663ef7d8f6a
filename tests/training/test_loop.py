import json
import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import TinyModel, make_config, make_data, outcome, train

from newslora.errors import NewsloraError
from newslora.training import loop
from newslora.training.checkpoints import find_checkpoint, read_checkpoint
from newslora.training.loop import fit
from newslora.training.progress import CheckpointSaved, EpochDone, Event, Started, StepDone, StepSkipped
from newslora.training.run_folder import RunFolder
from newslora.training.snapshot import trainable_tensors

STEPS = 27  # 70 rows in batches of 8, three epochs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    train(path)
    return path


def signal_at(step: int, number: int) -> Callable[[Event], None]:
    def report(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            os.kill(os.getpid(), number)

    return report


class Crash(BaseException):
    """A process that ends without a word."""


def crash_on(kind: type, count: int = 1) -> Callable[[Event], None]:
    seen: list[Event] = []

    def report(event: Event) -> None:
        seen.extend([event] if isinstance(event, kind) else [])
        if len(seen) == count:
            raise Crash

    return report


def test_it_learns(tmp_path: Path) -> None:
    result = train(tmp_path / "run", epochs=12, rows=200, lr=0.05, batch_size=16)
    assert result.validation["val_accuracy"] > 0.65  # the commonest class: 0.4
    rows = RunFolder(tmp_path / "run").metrics()
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]


def test_rows_and_curve_are_those_of_the_contract(whole: Path) -> None:
    run = RunFolder(whole)
    assert [list(row) for row in run.metrics()] == 3 * [
        ["epoch", "step", "train_loss", "train_accuracy", "train_l2", "val_loss", "val_accuracy", "val_macro_f1", "lr",
         "seconds", "samples_per_second"]
    ]  # fmt: skip
    assert [(row["epoch"], row["step"]) for row in run.metrics()] == [(1, 9), (2, 18), (3, 27)]
    assert [list(row) for row in run.steps()] == STEPS * [["step", "epoch", "train_loss", "lr"]]
    assert run.steps()[12]["epoch"] == pytest.approx(13 / 9)


def test_the_curve_has_a_hundred_lines_and_its_means_add_up(tmp_path: Path) -> None:
    train(tmp_path / "run", epochs=26, batch_size=7)  # 260 steps of 7 rows
    run = RunFolder(tmp_path / "run")
    assert [row["step"] for row in run.steps()] == list(range(2, 261, 2))
    means = [sum(row["train_loss"] for row in run.steps()[5 * i : 5 * i + 5]) / 5 for i in range(26)]
    assert means == pytest.approx([row["train_loss"] for row in run.metrics()])


def test_two_runs_are_equal_and_another_seed_is_not(whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "same")
    train(tmp_path / "other", seed=1)
    assert outcome(tmp_path / "same") == outcome(whole)
    assert outcome(tmp_path / "other")[0] != outcome(whole)[0]


def test_the_best_epoch_is_what_model_adapter_and_checkpoint_hold(tmp_path: Path) -> None:
    config, model = make_config(epochs=6, lr=0.3), TinyModel()
    run = RunFolder.create(tmp_path / "run", config)
    result = fit(config, make_data(), model, run, lambda _: None)  # type: ignore[arg-type]
    scores = [row["val_macro_f1"] for row in run.metrics()]
    assert result.best_epoch == scores.index(max(scores)) + 1 < 6
    assert result.validation == run.metrics()[result.best_epoch - 1]
    assert (result.epochs, result.stopped_early) == (6, False)
    best = load_file(run.checkpoints / "best" / "trainable.safetensors")
    torch.testing.assert_close(trainable_tensors(model), best, rtol=0, atol=0)
    torch.testing.assert_close(load_file(run.adapter / "adapter_model.safetensors"), best, rtol=0, atol=0)
    assert json.loads(read_checkpoint(run.checkpoints / "best")["metrics.json"]) == result.validation
    assert (run.adapter / "cleaner.json").exists()
    assert not model.training


def test_patience_stops_early(tmp_path: Path) -> None:
    result = train(tmp_path / "run", epochs=30, lr=0.3, patience=2)
    assert result.stopped_early
    assert result.epochs == result.best_epoch + 2 < 30
    assert train(tmp_path / "run", resume=True, epochs=40, lr=0.3, patience=2).epochs == result.epochs


def test_best_by_loss(tmp_path: Path) -> None:
    result = train(tmp_path / "run", epochs=8, lr=0.3, best_by="loss")
    losses = [row["val_loss"] for row in RunFolder(tmp_path / "run").metrics()]
    assert result.best_epoch == losses.index(min(losses)) + 1


def test_l2_is_reported_apart_from_the_cross_entropy(whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", l2=1e-9)
    rows, plain = RunFolder(tmp_path / "run").metrics(), RunFolder(whole).metrics()
    assert all(row["train_l2"] > 0 for row in rows)
    assert [row["train_loss"] for row in rows] == pytest.approx([row["train_loss"] for row in plain], rel=1e-4)


def test_events_tell_the_whole_story(tmp_path: Path) -> None:
    events: list[Event] = []
    train(tmp_path / "run", report=events.append)
    assert events[0] == Started(step=0, steps=STEPS, epochs=3, device="cpu", precision="fp32")
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [event.step for event in steps] == list(range(1, STEPS + 1))
    assert steps[-1].eta == 0
    assert steps[-1].epoch == 3
    rows = RunFolder(tmp_path / "run").metrics()
    assert steps[8].loss == rows[0]["train_loss"]
    assert [event.metrics for event in events if isinstance(event, EpochDone)] == rows
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [9, 18, 27]


@pytest.mark.parametrize(
    ("step", "number"), [*((step, signal.SIGTERM) for step in (1, 5, 9, 13, 26, 27)), (14, signal.SIGINT)]
)
def test_a_signalled_run_goes_on_exactly(whole: Path, tmp_path: Path, step: int, number: int) -> None:
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        train(tmp_path / "run", report=signal_at(step, number))
    assert caught.type is KeyboardInterrupt if number == signal.SIGINT else caught.value.code == 143  # type: ignore[union-attr]
    assert not (tmp_path / "run" / "adapter").exists()
    events: list[Event] = []
    train(tmp_path / "run", resume=True, report=events.append)
    assert isinstance(events[0], Started)
    assert (events[0].step, events[0].checkpoint) == (step, tmp_path / "run" / "checkpoints" / "last")
    assert outcome(tmp_path / "run") == outcome(whole)


def test_a_run_interrupted_again_and_again_goes_on_exactly(tmp_path: Path) -> None:
    settings = {"accumulation": 2, "class_weights": "balanced", "label_smoothing": 0.1, "schedule": "cosine-restarts"}
    train(tmp_path / "whole", **settings)
    train_steps = [2, 3, 7, 11, 14]
    for turn, step in enumerate(train_steps):
        with pytest.raises(SystemExit):
            train(tmp_path / "run", turn > 0, signal_at(step, signal.SIGTERM), **settings)
    train(tmp_path / "run", resume=True, **settings)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(("kind", "count"), [(StepDone, 4), (StepDone, 20), (EpochDone, 1), (CheckpointSaved, 3)])
def test_a_crashed_run_goes_on_exactly_from_its_last_checkpoint(
    whole: Path, tmp_path: Path, kind: type, count: int
) -> None:
    with pytest.raises(Crash):
        train(tmp_path / "run", report=crash_on(kind, count))
    train(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(whole)


def test_a_signal_while_validating_is_obeyed_before_the_epoch_ends(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = loop.validate, []

    def validate(*args: Any) -> Any:
        calls.append(os.kill(os.getpid(), signal.SIGTERM))
        return real(*args)

    monkeypatch.setattr(loop, "validate", validate)
    with pytest.raises(SystemExit):
        train(tmp_path / "run")
    assert RunFolder(tmp_path / "run").metrics() == []
    monkeypatch.undo()
    train(tmp_path / "run", resume=True)
    assert len(calls) == 1
    assert outcome(tmp_path / "run") == outcome(whole)


def test_a_finished_run_resumed_is_left_as_it_was(whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "run")
    (tmp_path / "run" / "adapter" / "adapter_model.safetensors").unlink()
    train(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(whole)


def test_a_damaged_checkpoint_falls_back_and_still_ends_alike(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path / "run", report=signal_at(20, signal.SIGTERM))
    last = tmp_path / "run" / "checkpoints" / "last"
    (last / "optimizer.safetensors").write_bytes(b"x")
    events: list[Event] = []
    train(tmp_path / "run", resume=True, report=events.append)
    assert isinstance(events[0], Started)
    assert (events[0].step, events[0].damaged) == (18, (last,))
    assert outcome(tmp_path / "run") == outcome(whole)


def test_more_epochs_may_follow(tmp_path: Path) -> None:
    train(tmp_path / "run", schedule="constant", warmup=0.0)
    train(tmp_path / "run", resume=True, epochs=5, schedule="constant", warmup=0.0)
    train(tmp_path / "whole", epochs=5, schedule="constant", warmup=0.0)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert RunFolder(tmp_path / "run").config().train.epochs == 5


@pytest.mark.parametrize(
    ("stop", "changes", "reason"),
    [
        (5, {"lr": 0.5}, r"cannot resume, train\.lr is 0\.5 but was 0\.02"),
        (5, {"rows": 69}, "cannot resume, the training or validation rows have changed"),
        (None, {"seed": 3}, r"cannot resume, train\.seed is 3 but was 0"),
    ],
)
def test_a_resume_that_would_change_the_result_is_refused(
    tmp_path: Path, stop: int | None, changes: dict[str, Any], reason: str
) -> None:
    report = signal_at(stop, signal.SIGTERM) if stop else crash_on(StepDone)
    with pytest.raises((SystemExit, Crash)):
        train(tmp_path / "run", report=report)
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(NewsloraError, match=reason):
        train(tmp_path / "run", resume=True, **changes)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"checkpoint_minutes": 1e-9}, [*range(1, 10), 9]), ({"checkpoint_steps": 4}, [4, 8, 9]), ({}, [9])],
)
def test_a_checkpoint_is_written_when_its_time_has_come(
    tmp_path: Path, settings: dict[str, Any], expected: list[int]
) -> None:
    events: list[Event] = []
    train(tmp_path / "run", epochs=1, report=events.append, **settings)
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == expected


def test_how_often_checkpoints_are_written_may_change_and_changes_nothing(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(tmp_path / "run", report=crash_on(StepDone, 13), checkpoint_steps=5)
    events: list[Event] = []
    train(tmp_path / "run", resume=True, report=events.append, checkpoint_steps=2)
    assert isinstance(events[0], Started)
    assert events[0].step == 10
    assert outcome(tmp_path / "run") == outcome(whole)


class Diverging(TinyModel):
    def forward(self, batch: Any) -> torch.Tensor:
        return super().forward(batch) * (float("nan") if 30 in batch.rows and self.training else 1.0)


def test_a_loss_that_is_not_finite_stops_the_run_by_name(tmp_path: Path) -> None:
    config, data = make_config(), make_data()
    run = RunFolder.create(tmp_path / "run", config)
    with pytest.raises(NewsloraError, match=r"step \d+: the loss is not finite \(news\.csv, rows .*\b32\b") as caught:
        fit(config, data, Diverging(), run, lambda _: None)  # type: ignore[arg-type]
    assert "no checkpoint yet; lower train.lr" in str(caught.value)
    assert find_checkpoint(run.checkpoints) is None


def test_a_step_that_diverges_may_be_left_out(tmp_path: Path) -> None:
    config, data = make_config(on_divergence="skip"), make_data()
    run, events = RunFolder.create(tmp_path / "run", config), []
    fit(config, data, Diverging(), run, events.append)  # type: ignore[arg-type]
    skipped = [event for event in events if isinstance(event, StepSkipped)]
    assert len(skipped) == 3  # once an epoch
    assert all("32" in event.reason for event in skipped)
    assert all(math.isfinite(row["train_loss"]) for row in run.metrics())
    with pytest.raises(SystemExit):
        fit(config, data, Diverging(), RunFolder.create(tmp_path / "again", config), signal_at(11, signal.SIGTERM))  # type: ignore[arg-type]
    fit(config, data, Diverging(), RunFolder.open(tmp_path / "again"), lambda _: None, resume=True)  # type: ignore[arg-type]
    assert outcome(tmp_path / "again") == outcome(tmp_path / "run")


def test_another_backbone_is_no_place_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path / "run", report=signal_at(5, signal.SIGTERM))
    model = TinyModel()
    model.identity = {"weights_sha256": "00ff"}
    with pytest.raises(NewsloraError, match="cannot resume, the backbone's weights have changed"):
        fit(make_config(), make_data(), model, RunFolder.open(tmp_path / "run"), lambda _: None, resume=True)  # type: ignore[arg-type]


def test_divergence_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path / "run", report=signal_at(1, signal.SIGTERM))
    config, run = make_config(), RunFolder.open(tmp_path / "run")
    with pytest.raises(NewsloraError, match=r"the last good checkpoint is .*run/checkpoints/last"):
        fit(config, make_data(), Diverging(), run, lambda _: None, resume=True)  # type: ignore[arg-type]


def test_weights_gone_bad_are_caught_at_validation(tmp_path: Path) -> None:
    def spoil(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 9:
            model.out.bias.data.fill_(math.nan)

    model, config = TinyModel(), make_config()
    with pytest.raises(NewsloraError, match="epoch 1: the validation loss is not finite"):
        fit(config, make_data(), model, RunFolder.create(tmp_path / "run", config), spoil)  # type: ignore[arg-type]


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    errors: list[NewsloraError] = []

    def intrude(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            with pytest.raises(NewsloraError) as caught:
                train(tmp_path / "run", resume=True)
            errors.append(caught.value)

    train(tmp_path / "run", report=intrude)
    assert "another process is training here" in str(errors[0])


def test_a_full_disk_is_an_error_and_the_run_goes_on_later(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, writes = Path.write_bytes, []

    def write_bytes(path: Path, content: bytes) -> int:
        writes.append(path)
        if len(writes) > 9:
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(NewsloraError, match="cannot be written"):
        train(tmp_path / "run")
    monkeypatch.undo()
    train(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(whole)


def test_training_works_outside_the_main_thread(whole: Path, tmp_path: Path) -> None:
    thread = threading.Thread(target=train, args=(tmp_path / "run",))
    thread.start()
    thread.join()
    assert outcome(tmp_path / "run") == outcome(whole)
