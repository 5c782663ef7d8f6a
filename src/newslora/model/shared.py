"""Many adapters over one frozen backbone: one pass in which each article goes through its own LoRA and its own head.

The frozen product W x is computed once for the tokens of all articles. Those of one adapter stand side by side, so its
low-rank update s·B(A x) is two thin products on its own rows (as in Punica, Chen et al. 2023, arXiv 2310.18547, and
S-LoRA, Sheng et al. 2023, arXiv 2311.03285).
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from newslora.data.batches import Batch, make_batch
from newslora.data.encoding import Encoded
from newslora.errors import NewsloraError
from newslora.model.backbone import load_tokenizer, prepare_config
from newslora.model.classifier import NewsModel, load_on, predict_logits
from newslora.model.families import Family
from newslora.model.frozen import load_frozen, read_sealed
from newslora.model.modernbert import ModernBertEncoder
from newslora.model.packed import PackedEncoder
from newslora.model.projection import Projection

Place = tuple[int, str]  # a layer's number and the name of its projection


@dataclass(frozen=True)
class LowRank:
    """The updates of the modules that a projection joins, as one: y += (x down) up.

    Attributes:
        down: [in, sum of ranks], the modules' A side by side.
        up: [sum of ranks, out], their s·B on the diagonal.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter on the shared backbone.

    Attributes:
        model: A whole model, which shares its frozen weights with the backbone's other adapters.
        updates: Its update of each projection, or None where it is no plain low-rank one (DoRA) or the family has no
            packed pass; such an adapter runs by itself.
    """

    model: NewsModel
    updates: dict[Place, LowRank] | None


class SharedBackbone:
    """A backbone in memory once, for any number of adapters. One pass at a time; adapters may be loaded meanwhile.

    Args:
        folder: The adapter folder whose backbone it shall be.

    Raises:
        NewsloraError: A file is missing, damaged or strange to the folder, or the backbone is not the one that the
            adapter was trained on.
    """

    def __init__(self, folder: Path) -> None:
        about = read_sealed(folder)
        self.identity = about.identity
        self._plain, self._family = load_frozen(folder, about)
        self._plain.requires_grad_(False).train(mode=False)
        self._route = _Route()
        self._encoder = _mixing_encoder(self._plain, self._family, self._route)
        self._tokenizers: dict[str, Tokenizer] = {}

    def load(self, folder: Path) -> Adapter:
        """Put the adapter in ``folder`` on the backbone; no weight of the backbone is read or copied.

        Raises:
            NewsloraError: A file is missing, damaged or strange to the folder, or it is of another backbone.
        """
        about = read_sealed(folder)
        if about.identity != self.identity:
            theirs, ours = (_shown(identity) for identity in (about.identity, self.identity))
            raise NewsloraError(f"{folder}: is on backbone {theirs}, the others on {ours}; serve it by itself")
        model = _share(self._plain, self._family, about.names)
        loaded = load_on(model, self._family, folder, about, self._tokenizer(folder))
        return Adapter(loaded, _updates(loaded))

    @torch.no_grad()
    def logits(self, groups: Sequence[tuple[Adapter, Encoded]]) -> list[npt.NDArray[np.float32]]:
        """Run one pass over articles of several adapters.

        Args:
            groups: Each adapter once, with its articles; all fit in one batch.

        Returns:
            For each group float32 [its articles, its labels], in its articles' order.
        """
        together = [group for group in groups if group[0].updates is not None]
        joint = iter(self._mixed(together) if together else ())
        return [next(joint) if a.updates is not None else predict_logits(a.model, encoded) for a, encoded in groups]

    def embed(self, adapter: Adapter, batch: Batch) -> torch.Tensor | None:
        """Return a batch's embeddings [tokens, width], or None where the family has no packed pass."""
        return None if adapter.model.encoder is None else adapter.model.encoder.embed(batch)

    def from_embeddings(self, adapter: Adapter, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return logits [articles, labels] for embeddings [tokens, width]; gradients flow back to them."""
        encoder = adapter.model.encoder
        if adapter.updates is not None and self._encoder is not None:
            encoder = self._encoder
        if encoder is None:
            raise RuntimeError("the padded pass does not start from embeddings")
        with self._route.over([adapter], [batch]):
            return adapter.model.head(encoder.layers_from(x, batch))

    def _mixed(self, groups: Sequence[tuple[Adapter, Encoded]]) -> Iterator[npt.NDArray[np.float32]]:
        if self._encoder is None:
            raise RuntimeError("the padded pass does not mix adapters")
        batches = [make_batch(encoded, range(len(encoded))) for _, encoded in groups]
        ids = torch.cat([batch.input_ids for batch in batches])
        lengths = tuple(chain.from_iterable(batch.lengths for batch in batches))
        with self._route.over([adapter for adapter, _ in groups], batches):
            first = self._encoder(Batch(ids, lengths, tuple(range(len(lengths)))))
        parts = torch.split(first, [len(batch.lengths) for batch in batches])
        for (adapter, _), batch, part in zip(groups, batches, parts, strict=True):
            logits = np.empty((len(part), len(adapter.model.names)), dtype=np.float32)
            logits[list(batch.rows)] = adapter.model.head(part).numpy()
            yield logits

    def _tokenizer(self, folder: Path) -> Tokenizer:
        # A tokenizer takes more memory than an adapter, and those of one backbone are the same.
        files = sorted(file for file in folder.iterdir() if "token" in file.name or "vocab" in file.name)
        digest = hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()
        if digest not in self._tokenizers:
            self._tokenizers[digest] = load_tokenizer(str(folder))
        return self._tokenizers[digest]


class _Route:
    """Which rows of the pass under way are whose."""

    def __init__(self) -> None:
        self._tokens = 0
        self._by_token: list[tuple[Adapter, slice]] = []
        self._by_article: list[tuple[Adapter, slice]] = []

    @contextmanager
    def over(self, adapters: Sequence[Adapter], batches: Sequence[Batch]) -> Iterator[None]:
        self._by_token = list(zip(adapters, _slices([sum(batch.lengths) for batch in batches]), strict=True))
        self._by_article = list(zip(adapters, _slices([len(batch.lengths) for batch in batches]), strict=True))
        self._tokens = sum(sum(batch.lengths) for batch in batches)
        try:
            yield
        finally:
            self._by_token = self._by_article = []

    def segments(self, rows: int) -> list[tuple[Adapter, slice]]:
        # As many articles as tokens means articles of one token each, and then the two are the same.
        return self._by_token if rows == self._tokens else self._by_article


class _MixingProjection(Projection):
    """A frozen projection to which each adapter adds its update on its own rows."""

    def __init__(self, frozen: Projection, route: _Route, place: Place) -> None:
        super().__init__(frozen.modules)
        self._route, self._place = route, place

    @property
    def folds(self) -> bool:
        return False

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        y = super().__call__(x, residual)
        for adapter, rows in self._route.segments(len(x)):
            update = (adapter.updates or {}).get(self._place)
            if update is not None:
                y[rows].addmm_(x[rows] @ update.down, update.up)
        return y


def _slices(sizes: Sequence[int]) -> list[slice]:
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _mixing_encoder(model: PreTrainedModel, family: Family, route: _Route) -> PackedEncoder | ModernBertEncoder | None:
    if family.style is None:
        return None
    encoder = ModernBertEncoder(model, family) if family.style == "modernbert" else PackedEncoder(model, family)
    for (number, name), projection in _projections(encoder):
        setattr(encoder.layers[number], name, _MixingProjection(projection, route, (number, name)))
    return encoder


def _projections(encoder: PackedEncoder | ModernBertEncoder) -> list[tuple[Place, Projection]]:
    parts = ((i, name, part) for i, layer in enumerate(encoder.layers) for name, part in vars(layer).items())
    return [((i, name), part) for i, name, part in parts if isinstance(part, Projection)]


def _updates(model: NewsModel) -> dict[Place, LowRank] | None:
    if model.encoder is None:
        return None
    projections = _projections(model.encoder)
    if not all(projection.folds for _, projection in projections):
        return None
    return {place: _low_rank(projection) for place, projection in projections if projection.updates}


def _low_rank(projection: Projection) -> LowRank:
    ranks = [len(update.A) for update in projection.updates]
    up = projection.updates[0].A.new_zeros((sum(ranks), sum(m.out_features for m in projection.modules)))
    for update, rank in zip(projection.updates, _slices(ranks), strict=True):
        up[rank, update.rows] = update.scale * update.B.detach().t()
    return LowRank(torch.cat([update.A.detach() for update in projection.updates]).t().contiguous(), up)


def _share(plain: PreTrainedModel, family: Family, names: tuple[str, ...]) -> PreTrainedModel:
    """Return a model of its own modules around the same tensors, its output layer for other labels."""
    shared: Any = copy.deepcopy(plain, {id(tensor): tensor for tensor in chain(plain.parameters(), plain.buffers())})
    prepare_config(shared.config, names, None)
    shared.num_labels = len(names)
    parent, _, name = family.head_output.rpartition(".")
    old: Any = shared.get_submodule(family.head_output)
    fresh = nn.Linear(old.in_features, len(names), bias=old.bias is not None).requires_grad_(False)
    setattr(shared.get_submodule(parent), name, fresh)
    model: PreTrainedModel = shared
    return model


def _shown(identity: dict[str, str | None]) -> str:
    return " ".join(str(value)[:60] for key, value in identity.items() if value is not None and key != "commit")
