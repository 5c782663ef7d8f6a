"""What a run leaves on disk while it trains: ``metrics.jsonl``, ``steps.jsonl`` and the checkpoints."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save

from newslora.config import RunConfig
from newslora.data.cleaning import Cleaner
from newslora.errors import NewsloraError
from newslora.files import write_text, writing
from newslora.model.classifier import NewsModel
from newslora.training.checkpoints import Found, clear_staged, find_checkpoint, write_best, write_checkpoint
from newslora.training.engine import flat_settings
from newslora.training.processes import from_main, talking
from newslora.training.progress import CheckpointSaved, Report, Row
from newslora.training.run_folder import RunFolder
from newslora.training.snapshot import Live, Tensors, pack, read_document, trainable_tensors, unpack
from newslora.training.state import Document, Generators, Identity, TrainingState


class Recorder:
    """Writes and reads the records of one run; in multi-process runs the main process alone writes.

    Attributes:
        best: Trainable tensors of the best epoch so far.
        saved: The last checkpoint written or read.
        found: The checkpoint that training goes on from, if any.
    """

    def __init__(
        self,
        run: RunFolder,
        config: RunConfig,
        accelerator: Accelerator,
        identity: Identity,
        live: Live,
        report: Report,
    ) -> None:
        self.run = run
        self.config = config
        self.accelerator = accelerator
        self.identity = identity
        self.live = live
        self.report = report
        self.best: Tensors = {}
        self.saved: Path | None = None
        self.found: Found | None = None
        self._saved_at = time.monotonic()

    def begin(self, resume: bool) -> TrainingState:
        """Return where training stands, with tensors and generators put back, and bring the records to that point.

        Raises:
            NewsloraError: Settings, rows or processes differ from the earlier run's in a way that would change the
                result, or no checkpoint is complete.
        """
        state = self._resume() if resume else TrainingState()
        from_main(lambda: self._write_records(state))
        return state

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after a step, counted from 1; the main process's clock decides."""
        every = self.config.train.checkpoint_steps
        late = time.monotonic() - self._saved_at > 60 * self.config.train.checkpoint_minutes
        return self.accelerator.is_main_process and (late or (every is not None and step % every == 0))

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint.

        Raises:
            NewsloraError: The disk is full or cannot be written to; earlier checkpoints stand.
        """
        with talking():
            generators = gather_object([Generators.capture(self.accelerator.device)])
        self.saved = from_main(lambda: self._write_checkpoint(state, generators))
        self._saved_at = time.monotonic()

    def keep_best(self, state: TrainingState) -> None:
        """Take the model's trainable tensors as the best so far."""
        self.best = trainable_tensors(self.live.model)
        from_main(lambda: self._write_best(state))

    def add_metrics(self, row: Row) -> None:
        """Append an epoch's row to ``metrics.jsonl``."""
        from_main(lambda: _append(self.run.metrics_file, row))

    def add_curve(self, row: Row) -> None:
        """Append a row to ``steps.jsonl``."""
        from_main(lambda: _append(self.run.steps_file, row))

    def _resume(self) -> TrainingState:
        # The main process reads for all: the folder may be on its machine alone.
        self.found = from_main(lambda: find_checkpoint(self.run.checkpoints))
        if self.found is None:
            config = from_main(self.run.config)
            self._check(self.identity.model_copy(update={"settings": flat_settings(config)}))
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

    def _write_records(self, state: TrainingState) -> None:
        self.config.save(self.run.config_file)
        clear_staged(self.run.path)
        clear_staged(self.run.checkpoints)
        write_text(self.run.metrics_file, _lines(state.metrics))
        write_text(self.run.steps_file, _lines(state.curve))
        self._write_best(state)

    def _write_checkpoint(self, state: TrainingState, generators: list[Generators]) -> Path:
        scaler = None if self.live.scaler is None else self.live.scaler.state_dict()
        document = Document(identity=self.identity, state=state, generators=generators, scaler=scaler)
        saved = write_checkpoint(self.run.checkpoints, pack(self.live, document, self.best), state.step)
        self.report(CheckpointSaved(saved, state.step))
        return saved

    def _write_best(self, state: TrainingState) -> None:
        # The copy inside each checkpoint is the one that counts: this folder may run ahead of it when a run is killed.
        if state.best is not None:
            files = {"trainable.safetensors": save(self.best), "metrics.json": json.dumps(state.best).encode()}
            write_best(self.run.checkpoints, files, int(state.best["step"]))


def write_adapter(folder: Path, model: NewsModel, cleaner: Cleaner) -> None:
    """Write the adapter's folder, sealed, whole or not at all.

    Raises:
        NewsloraError: The disk is full, or the place cannot be written to.
    """
    with writing(folder) as staged:
        staged.mkdir()
        cleaner.save(staged / "cleaner.json")
        model.save_adapter(staged)  # last: it seals what stands there


def _append(path: Path, row: Row) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_lines([row]))
    except OSError as error:
        raise NewsloraError(f"{path}: cannot be written ({error.strerror}); free some space, then --resume") from error


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
