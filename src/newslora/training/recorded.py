"""A pass over a batch, forward and backward, recorded once as a CUDA graph and replayed from then on.

A step of a small batch is hundreds of small kernels, which the host must start one by one; a graph starts them all at
once (Nguyen et al. 2021, "Accelerating PyTorch with CUDA Graphs"). A graph is one shape's: so batches are filled up to
whole multiples of a number of tokens by one article more, which nothing is asked of.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from newslora.data.batches import Batch, Ends, send
from newslora.model.classifier import NewsModel
from newslora.model.packed import PackedEncoder
from newslora.training.objective import Objective

PASSES = 20
"""A shape's passes before it is recorded: recording takes the time of several."""


def can_record(model: NewsModel, accelerator: Accelerator) -> bool:
    """Say whether a training pass does the same every time: on a GPU, in bf16, with nothing dropped.

    Args:
        model: The model to train.
        accelerator: Gives device and precision.
    """
    if accelerator.device.type != "cuda" or accelerator.mixed_precision != "bf16":
        return False
    drops = any(module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout))
    encoder = model.encoder
    if drops or not isinstance(encoder, PackedEncoder):
        return False
    return not (encoder.drops or any(projection.remade for projection in encoder.projections()))


def fill(batch: Batch, multiple: int) -> Batch:
    """Return a batch with one article more, which fills its tokens up to a whole multiple.

    Args:
        batch: On the host.
        multiple: Tokens, no more than an article may have; the article has between 1 and as many.
    """
    spare = multiple - len(batch.input_ids) % multiple
    ids = torch.cat([batch.input_ids, batch.input_ids.new_zeros(spare)])
    return replace(batch, input_ids=ids, lengths=(*batch.lengths, spare))


class RecordedPasses:
    """The passes of one model, each shape's recorded after it was seen :data:`PASSES` times.

    A shape's first passes, those before it is recorded, run the same kernels on the same shapes.

    Args:
        model: In training mode.
        objective: The loss, summed over articles.
        autocast: Opens the arithmetic's precision.
        device: The GPU.
    """

    def __init__(
        self,
        model: NewsModel,
        objective: Objective,
        autocast: Callable[[], AbstractContextManager[None]],
        device: torch.device,
    ) -> None:
        self.model, self.objective, self.autocast, self.device = model, objective, autocast, device
        self.parameters = model.trainable_parameters()
        self._seen: Counter[tuple[int, int]] = Counter()
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._gives_up = False

    def __call__(self, batch: Batch, mass: float) -> Tensor:
        """Pass a batch forward and backward.

        Args:
            batch: On the host, with labels.
            mass: What the loss is divided by for the gradient.

        Returns:
            float32 [trainable numbers + 2]: every parameter's gradient, one after the other; the summed loss; how many
            articles are right.
        """
        batch = fill(batch, self.model.max_length)
        shape = len(batch.lengths), len(batch.input_ids)
        numbers = send(_numbers(batch), self.device)
        scale = torch.full((), 1 / mass, device=self.device)
        self._seen[shape] += 1
        if shape not in self._recordings and self._seen[shape] > PASSES and not self._gives_up:
            self._record(shape, batch, numbers, scale)
        recording = self._recordings.get(shape)
        result = self._run(batch, numbers, scale) if recording is None else recording(numbers, scale)
        # The weights that the updates were folded into are none that a later pass may trust.
        torch.autograd.graph.increment_version(self.parameters)
        return result

    def _record(self, shape: tuple[int, int], batch: Batch, numbers: Tensor, scale: Tensor) -> None:
        other = next((made.graph for made in self._recordings.values()), None)
        try:
            self._recordings[shape] = _record(lambda n, s: self._run(batch, n, s), numbers, scale, other, self._folded)
        except RuntimeError as error:  # out of memory, or an operation that a driver cannot record
            self._gives_up = True
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"training goes on without CUDA graphs, slower but alike ({reason})", stacklevel=2)

    def _folded(self) -> list[Tensor]:
        assert isinstance(self.model.encoder, PackedEncoder)  # noqa: S101 - as can_record has it
        return [projection.weight for projection in self.model.encoder.projections()]

    def _run(self, batch: Batch, numbers: Tensor, scale: Tensor) -> Tensor:
        articles, tokens = len(batch.lengths), len(batch.input_ids)
        ids, labels, ends = torch.split(numbers, [tokens, articles - 1, articles + 1])
        ends_here = Ends(ends.int(), self.model.max_length) if self.device.type == "cuda" else None
        with self.autocast():
            logits = self.model(replace(batch, input_ids=ids, ends=ends_here))[:-1]
        loss = self.objective(logits, labels)
        gradients = torch.autograd.grad(loss * scale, self.parameters, materialize_grads=True)
        figures = torch.stack([loss.detach(), self.objective.right(logits, labels).float()])
        return torch.cat([*(gradient.flatten() for gradient in gradients), figures])


def _numbers(batch: Batch) -> Tensor:
    """Return what differs between batches of one shape in one piece, as it travels: ids, labels, ends; int64."""
    assert batch.labels is not None  # noqa: S101 - a training batch
    return torch.cat([batch.input_ids, batch.labels, torch.tensor([*batch.starts(), len(batch.input_ids)])])


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    numbers: Tensor
    scale: Tensor
    result: Tensor
    held: list[Tensor]  # the graph reads and writes them; another precision in between would free them

    def __call__(self, numbers: Tensor, scale: Tensor) -> Tensor:
        self.numbers.copy_(numbers)
        self.scale.copy_(scale)
        self.graph.replay()
        return self.result.clone()  # all graphs share one memory


def _record(
    run: Callable[[Tensor, Tensor], Tensor],
    numbers: Tensor,
    scale: Tensor,
    other: torch.cuda.CUDAGraph | None,
    held: Callable[[], list[Tensor]],
) -> _Recording:
    numbers, scale = numbers.clone(), scale.clone()
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(here)
    with torch.cuda.stream(side):  # libraries set themselves up on a stream's first call, which cannot be recorded
        run(numbers, scale)
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=None if other is None else other.pool()):
        result = run(numbers, scale)
    return _Recording(graph, numbers, scale, result, held())
