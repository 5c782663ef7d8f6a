"""The run folder: the one thing that passes from training to evaluation, prediction, export and serving."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from newslora.config import RunConfig, load_config
from newslora.errors import NewsloraError


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one run stands.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> Self:
        """Make a new run folder holding ``config.yaml``.

        Raises:
            NewsloraError: The folder exists and is not empty, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            taken = any(path.iterdir())
        except FileExistsError as error:
            raise NewsloraError(f"{path} exists and is a file; choose another --output") from error
        except OSError as error:
            raise NewsloraError(f"{path}: cannot be made ({error.strerror}); choose another --output") from error
        if taken:
            raise NewsloraError(f"{path} exists; choose another --output or add --resume")
        run = cls(path)
        try:
            config.save(run.config_file)
        except NewsloraError:
            run.discard_unless_resumable()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the folder of a run, finished or not.

        Raises:
            NewsloraError: There is no such folder, or it holds no ``config.yaml``.
        """
        if not path.is_dir():
            raise NewsloraError(f"{path}: no such run folder; give the --output of an earlier newslora train")
        if not (path / "config.yaml").is_file():
            raise NewsloraError(
                f"{path}: not a run folder, config.yaml is missing; give the --output of newslora train"
            )
        return cls(path)

    @property
    def adapter(self) -> Path:
        """Folder of the adapter, head, tokenizer and cleaner, in peft's format."""
        return self.path / "adapter"

    @property
    def baseline(self) -> Path:
        """Folder of a baseline's learned figures and cleaner; a run has it instead of an adapter."""
        return self.path / "baseline"

    @property
    def is_baseline(self) -> bool:
        """Whether a baseline was trained here."""
        return self.baseline.is_dir()

    @property
    def learned(self) -> Path:
        """Folder of what training left, with the cleaner and the temperature: ``adapter``, or ``baseline``."""
        return self.baseline if self.is_baseline else self.adapter

    @property
    def is_finished(self) -> bool:
        """Whether training and evaluation came to their end; the card is the last that is written."""
        return self.card.is_file()

    @property
    def config_file(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """One JSON object an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def steps_file(self) -> Path:
        """One JSON object about every hundredth of the steps: the learning curve between epochs."""
        return self.path / "steps.jsonl"

    @property
    def evaluation_file(self) -> Path:
        """Figures on the test set."""
        return self.path / "evaluation.json"

    @property
    def seeds_file(self) -> Path:
        """Mean, spread and interval over seeds, where the folder holds a run for each of several seeds."""
        return self.path / "seeds.json"

    def seed(self, number: int) -> Path:
        """Return the folder of one seed's run."""
        return self.path / f"seed-{number}"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.path / "figures"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints ``last``, ``previous`` and ``best``."""
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.path / "report.html"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.path / "README.md"

    def discard_unless_resumable(self) -> None:
        """Delete the folder if no checkpoint stands in it, so that a corrected command may take its name."""
        if not any((self.checkpoints / name).exists() for name in ("last", "previous")):
            shutil.rmtree(self.path, ignore_errors=True)

    def config(self) -> RunConfig:
        """Return the settings of the run.

        Raises:
            NewsloraError: ``config.yaml`` cannot be read or holds an unknown setting.
        """
        return load_config(self.config_file)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.jsonl``, oldest first; none before the first epoch's end.

        Raises:
            NewsloraError: A line is not a JSON object.
        """
        return _read_lines(self.metrics_file)

    def steps(self) -> list[dict[str, Any]]:
        """Return the rows of ``steps.jsonl`` (step, epoch, train_loss, lr), oldest first.

        Raises:
            NewsloraError: A line is not a JSON object.
        """
        return _read_lines(self.steps_file)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing; the system lets go of it when the process ends, however it ends.

        Raises:
            NewsloraError: Another process is writing to this run folder.
        """
        with _opened(self.path / ".lock") as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise NewsloraError(
                    f"{self.path}: another process is training here; wait for it or choose another --output"
                ) from error
            yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise NewsloraError(f"{path}: cannot be written ({error.strerror}); make the run folder writable") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # A line without its end is one that a killed process was writing.
    lines = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return [_read_line(path, number, line) for number, line in enumerate(lines, start=1)]


def _read_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NewsloraError(f"{path}:{number}: not readable as JSON; expected one object a line") from error
    if not isinstance(row, dict):
        raise NewsloraError(f"{path}:{number}: holds {type(row).__name__}; expected one object a line")
    return row
