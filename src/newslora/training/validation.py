"""Validation figures at an epoch's end, shared among processes and gathered exactly."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional

from newslora.data.batches import evaluation_batches, make_batch
from newslora.data.prepare import Split
from newslora.model.prefix import Prefix
from newslora.training.multilabel import set_figures
from newslora.training.processes import talking
from newslora.training.progress import Row


def validate(
    model: nn.Module,
    split: Split,
    classes: int,
    accelerator: Accelerator,
    between: Callable[[], None],
    prefix: Prefix | None = None,
    kinds: npt.NDArray[np.float32] | None = None,
) -> Row:
    """Return ``val_loss``, ``val_accuracy`` and ``val_macro_f1``.

    The loss is the plain mean cross-entropy (log loss), without label smoothing or class weights, so that runs with
    different objectives can be compared. Macro-F1 is scikit-learn's default, as in
    :func:`newslora.evaluation.metrics.measure`: the mean over the classes that occur among labels or predictions.
    Where articles carry several labels, the figures are those of :func:`newslora.training.multilabel.set_figures`.

    Args:
        model: Put into evaluation mode.
        split: The validation rows.
        classes: Number of classes.
        accelerator: Gives the device and this process's share.
        between: Called after every batch; may raise to leave.
        prefix: The frozen layers' output for the rows, where it was computed before.
        kinds: Where articles carry several labels, which of them each kind carries, [kinds, labels].
    """
    own = _own_logits(model, split, classes, accelerator, between, prefix)
    with talking():
        logits = accelerator.reduce(own, "sum").cpu()
    if kinds is not None:
        return set_figures(logits, kinds[split.labels])
    labels = torch.tensor(split.labels)
    guesses = logits.argmax(dim=-1).numpy()
    return {
        "val_loss": functional.cross_entropy(logits.double(), labels).item(),
        "val_accuracy": float(accuracy_score(split.labels, guesses)),
        "val_macro_f1": float(f1_score(split.labels, guesses, average="macro", zero_division=0)),
    }


@torch.no_grad()
def _own_logits(
    model: nn.Module,
    split: Split,
    classes: int,
    accelerator: Accelerator,
    between: Callable[[], None],
    prefix: Prefix | None,
) -> Tensor:
    # Every row is in one process's share and zero in the others': their sum is each row's logits, bit for bit.
    model.eval()
    logits = torch.zeros(len(split.labels), classes, device=accelerator.device)
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    for rows in evaluation_batches(split.encoded.lengths)[share]:
        batch = make_batch(split.encoded, rows, prefix=prefix).to(accelerator.device)
        with accelerator.autocast():
            logits[list(batch.rows)] = model(batch).float()
        between()
    return logits
