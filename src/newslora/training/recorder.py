"""What a run leaves on disk while it trains: ``metrics.jsonl``, ``steps.jsonl`` and the checkpoints."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.files import write_text
from newslora.training.checkpoints import Found, clear_staged, find_checkpoint, write_best, write_checkpoint
from newslora.training.engine import flat_settings
from newslora.training.progress import CheckpointSaved, Report, Row
from newslora.training.run_folder import RunFolder
from newslora.training.snapshot import Live, Tensors, pack, read_document, trainable_tensors, unpack
from newslora.training.state import Document, Generators, Identity, TrainingState

CHECKPOINT_SECONDS = 600.0


class Recorder:
    """Writes and reads the records of one run; in multi-process runs the main process alone writes.

    Attributes:
        best: Trainable tensors of the best epoch so far.
        saved: The last checkpoint written or read.
        found: The checkpoint that training goes on from, if any.
    """

    def __init__(
        self, run: RunFolder, accelerator: Accelerator, identity: Identity, live: Live, report: Report
    ) -> None:
        self.run = run
        self.accelerator = accelerator
        self.identity = identity
        self.live = live
        self.report = report
        self.best: Tensors = {}
        self.saved: Path | None = None
        self.found: Found | None = None
        self._saved_at = time.monotonic()

    def begin(self, config: RunConfig, resume: bool) -> TrainingState:
        """Return where training stands, with tensors and generators put back, and bring the records to that point.

        Raises:
            NewsloraError: Settings, rows or processes differ from the earlier run's in a way that would change the
                result, or no checkpoint is complete.
        """
        state = self._resume() if resume else TrainingState()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            config.save(self.run.config_file)
            clear_staged(self.run.path)
            clear_staged(self.run.checkpoints)
            write_text(self.run.metrics_file, _lines(state.metrics))
            write_text(self.run.steps_file, _lines(state.curve))
            self._write_best(state)
        return state

    def due(self) -> bool:
        """Whether it is time for a checkpoint; the main process's clock decides."""
        return self.accelerator.is_main_process and time.monotonic() - self._saved_at > CHECKPOINT_SECONDS

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint.

        Raises:
            NewsloraError: The disk is full or cannot be written to; earlier checkpoints stand.
        """
        generators = gather_object([Generators.capture(self.accelerator.device)])
        if self.accelerator.is_main_process:
            scaler = None if self.live.scaler is None else self.live.scaler.state_dict()
            document = Document(identity=self.identity, state=state, generators=generators, scaler=scaler)
            self.saved = write_checkpoint(self.run.checkpoints, pack(self.live, document, self.best), state.step)
            self.report(CheckpointSaved(self.saved, state.step))
        self.accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()

    def keep_best(self, state: TrainingState) -> None:
        """Take the model's trainable tensors as the best so far."""
        self.best = trainable_tensors(self.live.model)
        if self.accelerator.is_main_process:
            self._write_best(state)

    def add_metrics(self, row: Row) -> None:
        """Append an epoch's row to ``metrics.jsonl``."""
        self._append(self.run.metrics_file, row)

    def add_curve(self, row: Row) -> None:
        """Append a row to ``steps.jsonl``."""
        self._append(self.run.steps_file, row)

    def _resume(self) -> TrainingState:
        self.found = find_checkpoint(self.run.checkpoints)
        if self.found is None:
            self._check(self.identity.model_copy(update={"settings": flat_settings(self.run.config())}))
            return TrainingState()
        document = read_document(self.found.files)
        self._check(document.identity)
        self.best = unpack(self.found.files, self.live, document)
        document.generators[self.accelerator.process_index].restore(self.accelerator.device)
        self.saved = self.found.path
        return document.state

    def _check(self, earlier: Identity) -> None:
        difference = self.identity.difference(earlier)
        if difference is not None:
            raise NewsloraError(
                f"{self.run.path}: cannot resume, {difference}; take what the run began with or choose another --output"
            )

    def _write_best(self, state: TrainingState) -> None:
        # The copy inside each checkpoint is the one that counts: this folder may run ahead of it when a run is killed.
        if state.best is not None:
            files = {"trainable.safetensors": save(self.best), "metrics.json": json.dumps(state.best).encode()}
            write_best(self.run.checkpoints, files, int(state.best["step"]))

    def _append(self, path: Path, row: Row) -> None:
        if not self.accelerator.is_main_process:
            return
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(_lines([row]))
        except OSError as error:
            raise NewsloraError(
                f"{path}: cannot be written ({error.strerror}); free some space, then --resume"
            ) from error


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
