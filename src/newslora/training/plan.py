"""Which rows each step of each epoch takes: a pure function of the settings and the articles' lengths."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from newslora.config import TrainConfig
from newslora.data.batches import training_batches

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run.

    Attributes:
        config: The settings.
        lengths: int64 [articles], tokens of each training row.
        processes: Processes that share each batch, which is as many times larger.
    """

    config: TrainConfig
    lengths: npt.NDArray[np.int64]
    processes: int

    def steps(self, epoch: int) -> list[list[Rows]]:
        """Return, for each step of an epoch (counted from 0), the rows of its batches."""
        tokens = self.config.batch_tokens
        batches = training_batches(
            self.lengths,
            batch_size=self.config.batch_size * self.processes,
            batch_tokens=None if tokens is None else tokens * self.processes,
            seed=self.config.seed,
            epoch=epoch,
        )
        size = self.config.accumulation
        return [batches[start : start + size] for start in range(0, len(batches), size)]

    def total(self) -> int:
        """Return the number of steps of all epochs, which batches cut by tokens make differ."""
        return sum(len(self.steps(epoch)) for epoch in range(self.config.epochs))
