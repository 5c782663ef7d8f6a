"""One optimisation step: forward and backward over its batches, the gradient shared, clipped and applied."""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from newslora.config import TrainConfig
from newslora.data.batches import make_batch
from newslora.data.prepare import Prepared, Split
from newslora.errors import NewsloraError
from newslora.model.classifier import NewsModel
from newslora.model.features import watch_features
from newslora.model.prefix import Prefix
from newslora.training.multilabel import MultiLabelObjective
from newslora.training.objective import Objective, add_l2_gradient
from newslora.training.processes import talking
from newslora.training.recorded import RecordedPasses, can_record
from newslora.training.teaching import Lesson, check_features

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepResult:
    """A step's figures, left on the device so that nothing waits for them.

    Attributes:
        split: The training rows at hand.
        rows: int64 [articles], those of them that the step took.
        mass: Sum of the articles' class weights.
        figures: float32 [6]: summed cross-entropy, articles right, processes asked to stop, whether a checkpoint is
            due, norm of the gradient (0 when it is not clipped), and whether the step diverged and was left out.
    """

    split: Split
    rows: Rows
    mass: float
    figures: Tensor


def diverged(loss: float, norm: float, greatest: float) -> str | None:
    """Say what is wrong with a step, if anything is.

    Args:
        loss: Its mean loss.
        norm: The norm of its gradient.
        greatest: Mean loss that is still believed.
    """
    if not math.isfinite(loss):
        return "the loss is not finite"
    if not math.isfinite(norm):
        return "the gradient is not finite"
    return f"the loss is {loss:.4g}, above train.greatest_loss" if loss > greatest else None


class Stepper:
    """Takes optimisation steps; its gradient is that of one batch of all rows, however they are cut or shared.

    Every process works on its share of each batch. What is trained is small (under a million numbers), so gradients
    and figures travel together in one sum a step instead of through DistributedDataParallel.

    Where the device's memory does not suffice for a batch, its halves are passed one after the other, and so are later
    batches of that size; as the loss is a sum, its gradient stays that of the whole.

    Attributes:
        split: The training rows that batches are taken from; a stream's change as it goes on.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: NewsModel,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        data: Prepared,
        prefix: Prefix | None = None,
    ) -> None:
        self.prefix = prefix
        self.accelerator, self.model, self.optimizer, self.config = accelerator, model, optimizer, config
        self.split: Split = data.train
        self.parameters = model.trainable_parameters()
        self.numbers = sum(parameter.numel() for parameter in self.parameters)
        self.most_tokens = math.inf  # of a pass, once a greater one has run out of memory
        self.objective, self.lesson = _objective(config, data, accelerator.device)
        if data.teaching is not None:
            check_features(data.teaching, model.output_layer.in_features)
        self.recorded: RecordedPasses | None = None
        plain = self.lesson is None and prefix is None and can_record(model, accelerator)
        if plain and isinstance(self.objective, Objective):
            self.recorded = RecordedPasses(model, self.objective, accelerator.autocast, accelerator.device)

    def __call__(self, batches: list[Rows], lr: float, stop: bool = False, due: bool = False) -> StepResult:
        """Take one step.

        Args:
            batches: Training rows of each batch of the step.
            lr: Learning rate.
            stop: This process was asked to stop.
            due: This process wants a checkpoint.
        """
        rows = np.concatenate(batches)
        mass = self.objective.mass(rows)
        sums = torch.zeros(2, device=self.accelerator.device)
        for batch in batches:
            sums += self._backward(batch[self.accelerator.process_index :: self.accelerator.num_processes], mass)
        flags = [torch.full((1,), float(flag), device=sums.device) for flag in (stop, due)]  # no copy to wait for
        figures = self._share(torch.cat([sums, *flags]))
        return StepResult(self.split, rows, mass, torch.cat([figures, self._apply(lr, figures[0] / mass)]))

    def _backward(self, rows: Rows, mass: float) -> Tensor:
        if not len(rows):
            return torch.zeros(2, device=self.accelerator.device)
        tokens = int(self.split.encoded.lengths[rows].sum())
        if len(rows) > 1 and tokens > self.most_tokens:
            return self._halves(rows, mass)
        before = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        try:
            return self._pass(rows, mass)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise NewsloraError(
                    f"{self.split.source}:{self.split.places[rows[0]]}: the device's memory does not suffice for one "
                    f"article of {tokens} tokens; lower data.max_length or lora.r"
                ) from error
        # Out of the handler, whose traceback holds on to the pass's memory.
        self._take_back(before)
        self.most_tokens = int(self.split.encoded.lengths[rows[: (len(rows) + 1) // 2]].sum())
        return self._halves(rows, mass)

    def _halves(self, rows: Rows, mass: float) -> Tensor:
        middle = (len(rows) + 1) // 2
        return self._backward(rows[:middle], mass) + self._backward(rows[middle:], mass)

    def _take_back(self, gradients: list[Tensor | None]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()

    def _pass(self, rows: Rows, mass: float) -> Tensor:
        batch = make_batch(self.split.encoded, rows.tolist(), self.split.labels, self.prefix)
        if self.recorded is not None:
            return self._add_gradients(self.recorded(batch, mass))
        batch = batch.to(self.accelerator.device)
        assert batch.labels is not None  # noqa: S101 - narrows the type for mypy
        lesson, unwatched = self.lesson, nullcontext[list[Tensor]]([])
        watch = unwatched if lesson is None else watch_features(self.model, gradients=True)
        with self.accelerator.autocast(), watch as seen:
            logits = self.model(batch)
        if lesson is None:
            loss = self.objective(logits, batch.labels)
        else:
            loss = lesson(logits, batch.labels, batch.rows, seen[0])
        self.accelerator.backward(loss / mass)
        return torch.stack([loss.detach(), self.objective.right(logits, batch.labels)])

    def _add_gradients(self, flat: Tensor) -> Tensor:
        """Add to every parameter's gradient its part of ``flat``, and return what stands behind them."""
        *parts, rest = torch.split(flat, [*(p.numel() for p in self.parameters), len(flat) - self.numbers])
        for parameter, part in zip(self.parameters, parts, strict=True):
            gradient = part.view_as(parameter)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return rest

    @torch.no_grad()
    def _share(self, figures: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return figures
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        with talking():
            shared = self.accelerator.reduce(torch.cat([g.flatten() for g in gradients] + [figures]), "sum")
        self.optimizer.zero_grad(set_to_none=True)
        return self._add_gradients(shared)

    def _apply(self, lr: float, loss: Tensor) -> Tensor:
        """Take the step and return the gradient's norm and whether the step was left out instead: float32 [2]."""
        scaler = self.accelerator.scaler
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        if self.config.l2:
            add_l2_gradient(self.parameters, self.config.l2)
        norm = self._clip()
        skip = self._must_skip(loss, norm)
        if not skip and scaler is None:
            self.optimizer.step()
        elif not skip and scaler is not None:
            scaler.step(self.optimizer)
        if scaler is not None:
            scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack([norm, torch.full_like(norm, float(skip))])

    def _must_skip(self, loss: Tensor, norm: Tensor) -> bool:
        # Looking at the figures makes a GPU wait, so it is done only when asked for.
        wanted = self.config.on_divergence == "skip"
        return wanted and diverged(loss.item(), norm.item(), self.config.greatest_loss) is not None

    def _clip(self) -> Tensor:
        if self.config.clip is None:
            return torch.zeros((), device=self.accelerator.device)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip, foreach=True)
        # A scaled fp16 gradient may overflow: the scaler then skips the step and lowers its scale.
        return norm if self.accelerator.scaler is None else torch.zeros_like(norm)


def _objective(
    config: TrainConfig, data: Prepared, device: torch.device
) -> tuple[Objective | MultiLabelObjective, Lesson | None]:
    if data.kinds is not None:
        return MultiLabelObjective(data.kinds, device), None
    objective = Objective(config, data.train.labels, len(data.names), device)
    return objective, None if data.teaching is None else Lesson(objective, data.teaching, device)
