"""From the steps' figures on the device to the run's running sums."""

import math

import torch

from newslora.data.prepare import Split
from newslora.errors import NewsloraError
from newslora.training.state import TrainingState
from newslora.training.stepping import StepResult


class Tally:
    """Holds the steps' figures until they are fetched; fetching is what makes a GPU wait."""

    def __init__(self, split: Split) -> None:
        self.split = split
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
            NewsloraError: A loss or gradient is not finite; names the step and its rows.
        """
        figures = torch.stack([result.figures for result in self._pending]).tolist()
        first = state.step - len(figures) + 1
        for step, (result, (loss, correct, _, _, norm)) in enumerate(zip(self._pending, figures, strict=True), first):
            if not math.isfinite(loss + norm):
                what = "gradient" if math.isfinite(loss) else "loss"
                raise NewsloraError(f"step {step}: the {what} is not finite ({self._rows(result)}); {advice}")
            for sums in (state.epoch_sums, state.line_sums):
                sums.add(loss, result.mass, int(correct), len(result.rows))
        self._pending.clear()
        return any(values[2] for values in figures), any(values[3] for values in figures)

    def _rows(self, result: StepResult) -> str:
        places = sorted(self.split.places[row] for row in result.rows.tolist())
        return f"{self.split.source}, rows {', '.join(map(str, places))}"
