"""One optimisation step: forward and backward over its batches, the gradient shared, clipped and applied."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from newslora.config import TrainConfig
from newslora.data.batches import make_batch
from newslora.data.prepare import Prepared
from newslora.model.classifier import NewsModel
from newslora.model.prefix import Prefix
from newslora.training.objective import Objective, add_l2_gradient

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepResult:
    """A step's figures, left on the device so that nothing waits for them.

    Attributes:
        rows: int64 [articles], all training rows of the step.
        mass: Sum of the articles' class weights.
        figures: float32 [5]: summed cross-entropy, articles right, processes asked to stop, whether a checkpoint is
            due, norm of the gradient (0 when it is not clipped).
    """

    rows: Rows
    mass: float
    figures: Tensor


class Stepper:
    """Takes optimisation steps; its gradient is that of one batch of all rows, however they are cut or shared.

    Every process works on its share of each batch. What is trained is small (under a million numbers), so gradients
    and figures travel together in one sum a step instead of through DistributedDataParallel.
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
        self.split = data.train
        self.parameters = model.trainable_parameters()
        self.objective = Objective(config, data.train.labels, len(data.names), accelerator.device)

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
        flags = torch.tensor([float(stop), float(due)], device=sums.device)
        figures = self._share(torch.cat([sums, flags]))
        return StepResult(rows, mass, torch.cat([figures, self._apply(lr).reshape(1)]))

    def _backward(self, rows: Rows, mass: float) -> Tensor:
        if not len(rows):
            return torch.zeros(2, device=self.accelerator.device)
        batch = make_batch(self.split.encoded, rows.tolist(), self.split.labels, self.prefix)
        batch = batch.to(self.accelerator.device)
        assert batch.labels is not None  # noqa: S101 - narrows the type for mypy
        with self.accelerator.autocast():
            logits = self.model(batch)
        loss = self.objective(logits, batch.labels)
        self.accelerator.backward(loss / mass)
        return torch.stack([loss.detach(), (logits.argmax(dim=-1) == batch.labels).sum()])

    @torch.no_grad()
    def _share(self, figures: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return figures
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        shared = self.accelerator.reduce(torch.cat([g.flatten() for g in gradients] + [figures]), "sum")
        *parts, figures = shared.split([*(p.numel() for p in self.parameters), len(figures)])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return figures

    def _apply(self, lr: float) -> Tensor:
        scaler = self.accelerator.scaler
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        if self.config.l2:
            add_l2_gradient(self.parameters, self.config.l2)
        norm = self._clip()
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _clip(self) -> Tensor:
        if self.config.clip is None:
            return torch.zeros((), device=self.accelerator.device)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip, foreach=True)
        # A scaled fp16 gradient may overflow: the scaler then skips the step and lowers its scale.
        return norm if self.accelerator.scaler is None else torch.zeros_like(norm)
