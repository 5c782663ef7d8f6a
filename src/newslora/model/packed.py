"""The encoder pass without padding: articles back to back, and nothing computed that the head never reads.

The head reads the first token of the last layer. So that layer's queries, attention output and feed-forward network
run on one row an article, and on a processor its keys and values are never made at all (see
:mod:`newslora.model.first_token`). Everything else is the family's own arithmetic, proven equal to the padded pass of
transformers by the tests.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import dropout
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from newslora.data.batches import Batch
from newslora.model.attention import attend, attend_first
from newslora.model.families import Family
from newslora.model.feed_forward import feed_forward
from newslora.model.first_token import attend_absorbed, can_absorb
from newslora.model.projection import Projection


def positions(lengths: Sequence[int], offset: int = 0) -> torch.Tensor:
    """Return each token's position within its article, counted from ``offset``: int64 [tokens]."""
    return torch.from_numpy(np.concatenate([np.arange(offset, offset + length) for length in lengths]))


def positions_of(batch: Batch, offset: int = 0) -> torch.Tensor:
    """Return :func:`positions` of a batch, on its device; on a GPU they are made there."""
    if batch.ends is None:
        return positions(batch.lengths, offset).to(batch.input_ids.device)
    ends = batch.ends.positions.long()
    places = torch.arange(len(batch.input_ids), device=ends.device)
    return places - ends[torch.bucketize(places, ends[1:], right=True)] + offset


def starts_of(batch: Batch) -> torch.Tensor:
    """Return the position of each article's first token, int64 [articles], on the batch's device."""
    if batch.ends is None:
        return torch.tensor(batch.starts(), device=batch.input_ids.device)
    return batch.ends.positions[:-1].long()


class PostNormLayer:
    """One layer of BERT's kind (Vaswani et al. 2017): attention, add, norm; feed-forward, add, norm.

    Args:
        layer: The transformers module, with peft's LoRA layers in it.
        family: Names of its parts.
        config: The backbone's configuration.
        last: Whether the head reads this layer's output, that is, only each article's first token.
    """

    def __init__(self, layer: nn.Module, family: Family, config: PreTrainedConfig, last: bool) -> None:
        query, key, value, output, up, down = (layer.get_submodule(path) for path in family.modules.values())
        self.query = Projection([query]) if last else None
        self.joint = Projection([key, value] if last else [query, key, value])
        self.output, self.up, self.down = Projection([output]), Projection([up]), Projection([down])
        self.attention_norm = layer.get_submodule(family.attention_norm)
        self.output_norm = layer.get_submodule(family.output_norm)
        self.heads: int = config.num_attention_heads
        name = getattr(config, "hidden_act", None) or config.activation
        self.activation, self.exact = ACT2FN[name], name == "gelu"
        # DistilBERT has names of its own for the probabilities, and drops nothing of its attention's output.
        self.output_dropout = float(getattr(config, "hidden_dropout_prob", 0.0))
        self.down_dropout = float(getattr(config, "hidden_dropout_prob", getattr(config, "dropout", 0.0)))
        self.attention_dropout = float(
            getattr(config, "attention_probs_dropout_prob", getattr(config, "attention_dropout", 0.0))
        )

    @property
    def drops(self) -> bool:
        """Whether anything is dropped in training, the inputs of low-rank updates aside."""
        return bool(self.output_dropout or self.down_dropout or self.attention_dropout)

    def __call__(self, x: torch.Tensor, batch: Batch, starts: torch.Tensor, training: bool) -> torch.Tensor:
        """Return [tokens, width], or [articles, width] from the last layer, for [tokens, width]."""
        attention_dropout = self.attention_dropout if training else 0.0
        if self.query is not None:
            rows = x[starts]
            context, x = self._first(self.query(rows), x, batch, attention_dropout), rows
        else:
            context = attend(self.joint(x), batch.lengths, self.heads, dropout=attention_dropout, ends=batch.ends)
        x = self.attention_norm(_add(self.output, context, x, self.output_dropout if training else 0.0))
        if training and self.down_dropout:
            x = _add(self.down, self.activation(self.up(x)), x, self.down_dropout)
        else:
            x = feed_forward(x, self.up, self.down, self.activation, exact=self.exact)
        normal: torch.Tensor = self.output_norm(x)
        return normal

    def _first(self, queries: torch.Tensor, x: torch.Tensor, batch: Batch, p: float) -> torch.Tensor:
        if can_absorb(x, self.joint):
            return attend_absorbed(queries, x, self.joint, batch.lengths, self.heads, dropout=p)
        return attend_first(queries, self.joint(x), batch.lengths, self.heads, dropout=p, ends=batch.ends)


def _add(projection: Projection, x: torch.Tensor, residual: torch.Tensor, p: float) -> torch.Tensor:
    return residual + dropout(projection(x), p) if p else projection(x, residual)


class PackedEncoder:
    """A backbone's embeddings and layers, run on a batch without padding.

    Args:
        model: The plain classification model, with peft's LoRA layers in place.
        family: The model's family; its style must be ``post-norm``.
    """

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        config = model.config
        self.backbone: Any = model.base_model
        layers = list(model.get_submodule(family.layers).children())
        self.layers = [PostNormLayer(layer, family, config, layer is layers[-1]) for layer in layers]
        self._types = getattr(config, "type_vocab_size", 0) > 0
        # RoBERTa counts positions from padding_idx + 1 (transformers #47496 tells what happens otherwise).
        table = model.get_submodule(f"{model.base_model_prefix}.embeddings.position_embeddings")
        padding = getattr(table, "padding_idx", None)
        self._offset = 0 if padding is None else int(padding) + 1

    @property
    def drops(self) -> bool:
        """Whether a layer drops anything in training, the inputs of low-rank updates aside."""
        return any(layer.drops for layer in self.layers)

    def projections(self) -> list[Projection]:
        """Return every layer's linear modules."""
        parts = [
            part for layer in self.layers for part in (layer.query, layer.joint, layer.output, layer.up, layer.down)
        ]
        return [part for part in parts if part is not None]

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings [tokens, width] of a batch."""
        ids = batch.input_ids.unsqueeze(0)
        where = positions_of(batch, self._offset).unsqueeze(0)
        extra = {"token_type_ids": torch.zeros_like(ids)} if self._types else {}
        x: torch.Tensor = self.backbone.embeddings(input_ids=ids, position_ids=where, **extra)
        project = getattr(self.backbone, "embeddings_project", None)
        return (x if project is None else project(x)).squeeze(0)

    def layers_from(self, x: torch.Tensor, batch: Batch, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Run layers ``start`` to ``stop`` (exclusive; all when None) on the hidden states [tokens, width].

        Returns:
            [tokens, width], or [articles, width] when the last layer is among them.
        """
        starts = starts_of(batch)
        for layer in self.layers[start:stop]:
            x = layer(x, batch, starts, self.backbone.training)
        return x

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the last layer's first tokens [articles, width]."""
        return self.layers_from(self.embed(batch), batch)
