"""The training loop."""

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.utils import set_seed

from newslora.config import RunConfig
from newslora.data.prepare import Prepared
from newslora.errors import Diverged
from newslora.model.classifier import NewsModel
from newslora.model.memory import trim_memory
from newslora.model.prefix import build_prefix
from newslora.model.residual import b_matrices
from newslora.training.engine import resolve_precision, start_accelerator, start_trackers, stop_trackers
from newslora.training.feed import open_feed
from newslora.training.interrupt import Interrupt
from newslora.training.objective import l2_term
from newslora.training.plan import Rows
from newslora.training.processes import agreed, from_main, part, share_weights, start_processes
from newslora.training.progress import EpochDone, Report, Row, Started, StepDone, StepSkipped
from newslora.training.recorder import Recorder, write_adapter
from newslora.training.run_folder import RunFolder
from newslora.training.schedule import build_optimizer, learning_rate
from newslora.training.snapshot import Live, load_trainable
from newslora.training.state import Identity, Sums
from newslora.training.stepping import Stepper
from newslora.training.tally import Tally
from newslora.training.validation import validate

# On a GPU figures are fetched every so many steps, because fetching waits for the device.
FETCH_STEPS = 20
# Freed memory is returned every so many steps: the step after it pays for the pages that it needs again.
TRIM_STEPS = 50


@dataclass(frozen=True)
class FitResult:
    """How training ended.

    Attributes:
        best_epoch: Epoch (counted from 1) whose weights were kept.
        epochs: Epochs trained.
        stopped_early: Whether patience ran out.
        validation: Row of the best epoch in ``metrics.jsonl``.
    """

    best_epoch: int
    epochs: int
    stopped_early: bool
    validation: Row


def fit(
    config: RunConfig, data: Prepared, model: NewsModel, run: RunFolder, report: Report, *, resume: bool = False
) -> FitResult:
    """Train ``model`` and write its adapter; the model holds the best epoch's weights when this returns.

    Args:
        config: The settings.
        data: Training and validation rows.
        model: The model to train, in place.
        run: Where to write ``metrics.jsonl``, ``steps.jsonl``, ``checkpoints/`` and ``adapter/``.
        report: Called with every event.
        resume: Go on from the run's newest checkpoint; without one, from the start.

    Raises:
        NewsloraError: The loss is not finite, the disk is full, another process trains here, the run cannot be resumed
            with these settings and rows, or another of its processes was lost.
        SystemExit: After SIGTERM, with status 143, once a checkpoint is written.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
    """
    start_processes()
    accelerator = agreed(lambda: start_accelerator(config.train, run))
    set_seed(config.train.seed, device_specific=True)
    model.to(accelerator.device)
    with ExitStack() as held, Interrupt(grace=1.0 if accelerator.num_processes > 1 else 0.0) as interrupt:
        from_main(lambda: held.enter_context(run.lock()))
        training = agreed(lambda: _Training(config, data, model, accelerator, interrupt))
        result = training.run(run, report if accelerator.is_main_process else lambda _: None, resume)
    part()
    return result


class _Training:
    def __init__(
        self, config: RunConfig, data: Prepared, model: NewsModel, accelerator: Accelerator, interrupt: Interrupt
    ) -> None:
        self.config, self.data, self.model = config, data, model
        self.accelerator, self.interrupt = accelerator, interrupt
        self.alone = accelerator.num_processes == 1
        self.feed = open_feed(config, data, accelerator.num_processes)
        self.total = self.feed.total()
        self.rate = learning_rate(config.train, self.total)
        self.tally = Tally(config.train.greatest_loss)
        self.parameters = model.trainable_parameters()
        keep, splits = config.train.prefix_cache, [data.train] if data.stream is None else []  # streamed: seen once
        self.prefixes = {id(split): build_prefix(model, split.encoded) for split in [*splits, data.validation] if keep}
        optimizer = build_optimizer(self.parameters, config.train, b_matrices(model))
        self.stepper = Stepper(accelerator, model, optimizer, config.train, data, self.prefixes.get(id(data.train)))

    def run(self, run: RunFolder, report: Report, resume: bool) -> FitResult:
        self.report = report
        live = Live(self.model, self.stepper.optimizer, self.accelerator.scaler)
        backbone = self.model.identity["weights_sha256"]
        identity = Identity.of(self.config, self.data, self.accelerator.num_processes, backbone)
        self.recorder = Recorder(run, self.config, self.accelerator, identity, live, report)
        self.state = self.recorder.begin(resume)
        share_weights(self.parameters)
        self._announce()
        start_trackers(self.accelerator, self.config)
        try:
            while self.state.epoch < self.config.train.epochs and not self._out_of_patience():
                self._epoch()
        finally:
            stop_trackers(self.accelerator)
        return self._finish()

    def _announce(self) -> None:
        found = self.recorder.found
        self.report(
            Started(
                step=self.state.step,
                steps=self.total,
                epochs=self.config.train.epochs,
                device=str(self.accelerator.device),
                precision=resolve_precision(self.config.train.precision),
                checkpoint=found.path if found else None,
                damaged=found.damaged if found else (),
            )
        )

    def _out_of_patience(self) -> bool:
        patience = self.config.train.patience
        return patience is not None and self.state.stale >= patience

    def _epoch(self) -> None:
        steps = self.feed.length(self.state.epoch)
        self.model.train()
        self.clock = time.perf_counter()
        for split, batches in self.feed.steps(self.state):
            self.stepper.split = split
            self._step(batches, steps)
        rows, classes = self.data.validation, len(self.data.names)
        own = (self._pause, self.prefixes.get(id(rows)), self.data.kinds)
        figures = validate(self.model, rows, classes, self.accelerator, *own)
        self._close_epoch(self._row(figures))

    def _step(self, batches: list[Rows], in_epoch: int) -> None:
        state = self.state
        state.lr = self.rate(state.step)
        stop = self.interrupt.received is not None
        self.tally.push(self.stepper(batches, state.lr, stop, self.recorder.due(state.step + 1)))
        state.step += 1
        state.done += 1
        if state.step % TRIM_STEPS == 0:
            trim_memory()
        on_line = self._on_line()
        if on_line or state.done == in_epoch or self._must_fetch():
            self._fetch(in_epoch, on_line)

    def _on_line(self) -> bool:
        return self.state.step % max(1, self.total // 100) == 0 or self.state.step == self.total

    def _must_fetch(self) -> bool:
        cheap = self.accelerator.device.type == "cpu"
        return cheap or self.state.step % FETCH_STEPS == 0 or (self.alone and self.interrupt.received is not None)

    def _fetch(self, in_epoch: int, on_line: bool) -> None:
        stop, due = self.tally.fetch(self.state, self._advice())
        for step, reason in self.tally.skipped:
            self.report(StepSkipped(step, reason))
        self.state.epoch_sums.seconds += time.perf_counter() - self.clock
        self._report_step(in_epoch)
        if on_line:
            self._draw_line(in_epoch)
        # Processes stop together: what each was asked went through the step's shared sum.
        if stop or due:
            self.recorder.save(self.state)
        if stop:
            self.interrupt.leave()
        self._pause()
        self.clock = time.perf_counter()

    def _report_step(self, in_epoch: int) -> None:
        state, sums = self.state, self.state.epoch_sums
        pace = sums.articles / max(sums.seconds, 1e-9)
        eta = (self.total - state.step) * sums.seconds / state.done
        epoch = state.epoch + state.done / in_epoch
        self.report(StepDone(state.step, self.total, epoch, sums.mean_loss, state.lr, pace, eta))

    def _draw_line(self, in_epoch: int) -> None:
        state, loss = self.state, self.state.line_sums.mean_loss
        epoch = state.epoch + state.done / in_epoch
        row: Row = {"step": state.step, "epoch": epoch, "train_loss": loss, "lr": state.lr}
        state.curve.append(row)
        state.line_sums = Sums()
        self.recorder.add_curve(row)
        self.accelerator.log({"train_loss": loss, "lr": state.lr}, step=state.step)

    def _pause(self) -> None:
        if self.alone and self.interrupt.received is not None:
            self.recorder.save(self.state)
            self.interrupt.leave()

    def _row(self, validation: Row) -> Row:
        state, sums = self.state, self.state.epoch_sums
        if not math.isfinite(validation["val_loss"]):
            raise Diverged(f"epoch {state.epoch + 1}: the validation loss is not finite; {self._advice()}")
        return {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": sums.mean_loss,
            "train_accuracy": sums.correct / sums.articles,
            "train_l2": l2_term(self.parameters, self.config.train.l2),
            **validation,
            "lr": state.lr,
            "seconds": round(sums.seconds, 3),
            "samples_per_second": round(sums.articles / max(sums.seconds, 1e-9), 2),
        }

    def _close_epoch(self, row: Row) -> None:
        state = self.state
        best = state.judge(row, self.config.train.best_by)
        if best:
            self.recorder.keep_best(state)
        state.epoch, state.done, state.epoch_sums = state.epoch + 1, 0, Sums()
        self.recorder.add_metrics(row)
        self.recorder.save(state)
        self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=state.step)
        self.report(EpochDone(row, best))

    def _advice(self) -> str:
        kept = f"the last good checkpoint is {self.recorder.saved}" if self.recorder.saved else "no checkpoint yet"
        return f"{kept}; lower train.lr, use train.precision fp32 or bf16, or skip by train.on_divergence"

    def _finish(self) -> FitResult:
        best = self.state.best
        assert best is not None  # noqa: S101 - at least one epoch was trained
        for prefix in self.prefixes.values():
            if prefix is not None:
                prefix.discard()
        load_trainable(self.model, self.recorder.best)
        self.model.eval()
        from_main(lambda: write_adapter(self.recorder.run.adapter, self.model, self.data.cleaner))
        early = self.state.epoch < self.config.train.epochs
        return FitResult(int(best["epoch"]), self.state.epoch, early, best)
