"""What each step trains on: batches of a table that is in memory, or of a stream's windows one after the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from newslora.config import RunConfig, TrainConfig
from newslora.data.prepare import Prepared, Split, StreamedRows
from newslora.data.streaming import Position
from newslora.training.plan import Rows, StepPlan
from newslora.training.state import TrainingState

Step = tuple[Split, list[Rows]]
"""The rows at hand, and those of them that each batch of the step holds."""


class Feed(Protocol):
    """Gives a run its steps."""

    def total(self) -> int:
        """Return the number of steps of the run."""

    def length(self, epoch: int) -> int:
        """Return the number of steps of an epoch, counted from 0."""

    def steps(self, state: TrainingState) -> Iterator[Step]:
        """Yield the steps of the epoch under way that are not done; ``state`` knows each that is handed out."""


def open_feed(config: RunConfig, data: Prepared, processes: int) -> Feed:
    """Return what feeds a run.

    Args:
        config: The settings.
        data: The rows, or the first of them and their stream.
        processes: Processes that share each batch.
    """
    if data.stream is None:
        return TableFeed(data.train, StepPlan(config.train, data.train.encoded.lengths, processes))
    return StreamFeed(config.train, data.train, data.stream, processes)


@dataclass(frozen=True)
class TableFeed:
    """The steps of a table in memory."""

    split: Split
    plan: StepPlan

    def total(self) -> int:
        """Return the number of steps of the run."""
        return self.plan.total()

    def length(self, epoch: int) -> int:
        """Return the number of steps of an epoch."""
        return len(self.plan.steps(epoch))

    def steps(self, state: TrainingState) -> Iterator[Step]:
        """Yield the steps of the epoch that are not done."""
        for batches in self.plan.steps(state.epoch)[state.done :]:
            yield self.split, batches


class StreamFeed:
    """The steps of a stream: each window's batches once, windows and passes until ``train.steps`` are taken.

    Args:
        config: The settings.
        first: The rows of the first window that are trained on.
        stream: The other windows.
        processes: Processes that share each batch; each of them reads the stream.
    """

    def __init__(self, config: TrainConfig, first: Split, stream: StreamedRows, processes: int) -> None:
        self.config, self.stream, self.processes = config, stream, processes
        self._window = self._planned(Position(), first, stream.second)

    def total(self) -> int:
        """Return the number of steps of the run."""
        return self.config.steps or 0

    def length(self, epoch: int) -> int:
        """Return the number of steps of an epoch: all are of one length, give or take a step."""
        steps, epochs = self.total(), self.config.epochs
        return steps * (epoch + 1) // epochs - steps * epoch // epochs

    def steps(self, state: TrainingState) -> Iterator[Step]:
        """Yield the steps of the epoch that are not done; ``state.stream`` is where reading stands after each."""
        for _ in range(state.done, self.length(state.epoch)):
            position = state.stream or Position()
            while position.done >= len(self._at(position).steps):
                position = self._window.following
            state.stream = position.model_copy(update={"done": position.done + 1})
            yield self._window.split, self._window.steps[position.done]

    def _at(self, position: Position) -> "_Planned":
        if position.window != self._window.number:
            self._window = self._planned(position, *self.stream.window(position))
        return self._window

    def _planned(self, position: Position, split: Split, following: Position) -> "_Planned":
        plan = StepPlan(self.config, split.encoded.lengths, self.processes)
        return _Planned(position.window, split, plan.steps(position.window), following)


@dataclass(frozen=True)
class _Planned:
    number: int
    split: Split
    steps: list[list[Rows]]
    following: Position
