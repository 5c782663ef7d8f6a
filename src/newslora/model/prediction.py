"""A model's answers for many articles, a batch to a core: cores that need not wait for each other do more."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from newslora.data.batches import evaluation_batches, make_batch
from newslora.data.encoding import Encoded
from newslora.model.classifier import NewsModel

Rows = npt.NDArray[np.int64]
TOKENS: Final = 2048
"""Tokens of a batch that has a core to itself: enough to fill the products; each core holds a batch's activations."""


def predict_logits(
    model: NewsModel, encoded: Encoded, progress: Callable[[int], None] | None = None, cores: int | None = None
) -> npt.NDArray[np.float32]:
    """Run the model in evaluation mode over a split, longest articles first.

    Args:
        model: The classifier; its mode is put back afterwards.
        encoded: The split's tokens.
        progress: Called with the number of articles done after each batch.
        cores: Batches side by side; :func:`cores_for`'s when None. With 1 they come in turn.

    Returns:
        float32 [articles, labels], in the split's order.
    """
    logits = np.empty((len(encoded), len(model.names)), dtype=np.float32)
    device = next(model.parameters()).device
    cores = cores or cores_for(model)
    was_training = model.training
    model.eval()

    def run(rows: Rows) -> None:
        batch = make_batch(encoded, rows)
        logits[list(batch.rows)] = model(batch.to(device)).float().cpu().numpy()

    for done in run_batches(run, batches_for(encoded.lengths, cores), cores):
        if progress is not None:
            progress(done)
    model.train(was_training)
    return logits


def cores_for(model: nn.Module) -> int:
    """Return how many batches of a model run side by side: PyTorch's threads for the packed pass on a CPU, else 1."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    return torch.get_num_threads() if on_cpu and getattr(model, "encoder", None) is not None else 1


def batches_for(lengths: Rows, cores: int) -> list[Rows]:
    """Return all rows in batches of like lengths, longest first, of a size for one core or for all of them.

    Args:
        lengths: int64 [articles], tokens of each article.
        cores: Batches side by side.
    """
    return evaluation_batches(lengths, TOKENS) if cores > 1 else evaluation_batches(lengths)


def run_batches(run: Callable[[Rows], None], batches: Sequence[Rows], cores: int) -> Iterator[int]:
    """Run batches without gradients, and yield each one's number of rows, in their order, once it is done.

    Which core took a batch changes nothing of what it gives. Where there are too few batches for every core, all cores
    share each.

    Args:
        run: Called with a batch's rows; where there are several cores, by several threads at once.
        batches: The rows of each.
        cores: Batches side by side.
    """

    @torch.no_grad()  # it holds for the thread that asks for it alone
    def counted(rows: Rows) -> int:
        run(rows)
        return len(rows)

    # The first batch folds the updates into the weights, which threads then only read.
    alone = 1 if len(batches) > 2 * cores > 2 else len(batches)
    yield from map(counted, batches[:alone])
    if batches[alone:]:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                yield from pool.map(counted, batches[alone:])
            finally:
                torch.set_num_threads(cores)  # a thread's setting is what later threads begin with
