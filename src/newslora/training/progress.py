"""What training tells its caller while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Row = dict[str, int | float]


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on.

    Attributes:
        step: Steps already done (0 unless resumed).
        steps: Steps of the whole run.
        epochs: Epochs of the whole run.
        device: Where it runs, such as ``cpu`` or ``cuda:0``.
        precision: Arithmetic: ``fp32``, ``bf16`` or ``fp16``.
        checkpoint: The checkpoint that was read, if any.
        damaged: Checkpoints passed over because they are incomplete or altered.
    """

    step: int
    steps: int
    epochs: int
    device: str
    precision: str
    checkpoint: Path | None = None
    damaged: tuple[Path, ...] = ()


@dataclass(frozen=True)
class StepDone:
    """Optimisation steps were done (on a GPU not each one is reported).

    Attributes:
        step: Steps done, of ``steps``.
        steps: Steps of the whole run.
        epoch: Epochs done, with the fraction of the one under way.
        loss: Mean cross-entropy of the epoch so far.
        lr: Learning rate of the step.
        samples_per_second: Articles a second in this epoch.
        eta: Seconds until the last step at this rate, validation not counted.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    samples_per_second: float
    eta: float


@dataclass(frozen=True)
class StepSkipped:
    """A step diverged, and its update was left out.

    Attributes:
        step: The step, counted from 1.
        reason: What was wrong, and the step's rows.
    """

    step: int
    reason: str


@dataclass(frozen=True)
class EpochDone:
    """An epoch was trained and validated.

    Attributes:
        metrics: Its row of ``metrics.jsonl``.
        best: Whether it is the best so far.
    """

    metrics: Row
    best: bool


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint stands complete on disk.

    Attributes:
        path: Its folder.
        step: Steps done when it was taken.
    """

    path: Path
    step: int


@dataclass(frozen=True)
class Restarted:
    """A process of the run was lost, and all have been started again, to go on from the last checkpoint."""


Event = Started | StepDone | StepSkipped | EpochDone | CheckpointSaved | Restarted
Report = Callable[[Event], None]
