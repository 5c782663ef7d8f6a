"""From the steps' figures on the device to the run's running sums."""

import math

import torch

from newslora.errors import Diverged
from newslora.training.state import TrainingState
from newslora.training.stepping import StepResult, diverged

MOST_SKIPPED = 20  # in a row: then it is not the rows that are at fault


class Tally:
    """Holds the steps' figures until they are fetched; fetching is what makes a GPU wait.

    Args:
        greatest: Mean loss of a step above which it has diverged.

    Attributes:
        skipped: Steps left out among those fetched last, each with what was wrong.
    """

    def __init__(self, greatest: float = math.inf) -> None:
        self.greatest = greatest
        self.skipped: list[tuple[int, str]] = []
        self._in_a_row = 0
        self._pending: list[StepResult] = []

    def push(self, result: StepResult) -> None:
        """Take in a step's figures without looking at them."""
        self._pending.append(result)

    def fetch(self, state: TrainingState, advice: str) -> tuple[bool, bool]:
        """Add the figures taken in so far to the sums of ``state``, whose ``step`` is the last of them.

        Every step is added by itself, so that the sums do not depend on when they are fetched.

        Args:
            state: Where training stands.
            advice: What to do when training has diverged.

        Returns:
            Whether a process was asked to stop, and whether a checkpoint is due.

        Raises:
            Diverged: A loss or gradient is not finite, or a loss too great; names the step and its rows.
        """
        figures = torch.stack([result.figures for result in self._pending]).tolist()
        first = state.step - len(figures) + 1
        self.skipped = []
        for step, (result, values) in enumerate(zip(self._pending, figures, strict=True), first):
            loss, correct, _, _, norm, skipped = values
            problem = diverged(loss / result.mass, norm, self.greatest)
            if problem is not None:
                self._judge(step, f"{problem} ({self._rows(result)})", bool(skipped), advice)
                state.skipped += 1
                continue
            self._in_a_row = 0
            for sums in (state.epoch_sums, state.line_sums):
                sums.add(loss, result.mass, int(correct), len(result.rows))
        self._pending.clear()
        return any(values[2] for values in figures), any(values[3] for values in figures)

    def _judge(self, step: int, reason: str, skipped: bool, advice: str) -> None:
        if not skipped:
            raise Diverged(f"step {step}: {reason}; {advice}")
        self.skipped.append((step, reason))
        self._in_a_row += 1
        if self._in_a_row == MOST_SKIPPED:
            raise Diverged(f"step {step}: {reason}, the {MOST_SKIPPED}th such step in a row; {advice}")

    def _rows(self, result: StepResult) -> str:
        places = sorted(result.split.places[row] for row in result.rows.tolist())
        return f"{result.split.source}, rows {', '.join(map(str, places))}"
