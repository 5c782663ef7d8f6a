"""The packed pass of ModernBERT: pre-norm layers, rotary positions, gated feed-forward, local and global attention."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import dropout
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from newslora.data.batches import Batch
from newslora.model.attention import attend, attend_first
from newslora.model.families import Family
from newslora.model.packed import PackedEncoder, positions_of, starts_of
from newslora.model.projection import Projection

Rotation = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, [1, tokens, head size] each


class ModernBertLayer:
    """One layer of ModernBERT (Warner et al. 2024); from the last only each article's first token is asked.

    Args:
        layer: The transformers module, with peft's LoRA layers in it.
        family: Names of its parts.
        config: The backbone's configuration.
        last: Whether the head reads this layer's output.
    """

    def __init__(self, layer: nn.Module, family: Family, config: PreTrainedConfig, last: bool) -> None:
        paths = dict.fromkeys(family.modules.values())
        self.qkv, self.output, self.up, self.down = (Projection([layer.get_submodule(path)]) for path in paths)
        self.first_only = last
        self.attn_norm, self.mlp_norm = layer.get_submodule("attn_norm"), layer.get_submodule("mlp_norm")
        self.activation = layer.get_submodule("mlp.act")
        self.type = str(layer.attention_type)
        self.heads: int = config.num_attention_heads
        self.window: int | None = config.sliding_window if self.type == "sliding_attention" else None
        self.attention_dropout, self.mlp_dropout = float(config.attention_dropout), float(config.mlp_dropout)

    def __call__(
        self, x: torch.Tensor, batch: Batch, starts: torch.Tensor, rotation: Rotation, training: bool
    ) -> torch.Tensor:
        """Return [tokens, width], or [articles, width] from the last layer, for [tokens, width]."""
        p = self.attention_dropout if training else 0.0
        how: dict[str, Any] = {"dropout": p, "window": self.window, "ends": batch.ends}
        qkv = self._rotate(self.qkv(self.attn_norm(x)), rotation)
        if self.first_only:
            width = qkv.shape[1] // 3
            queries, kv = qkv[starts, :width], qkv[:, width:]
            context = attend_first(queries, kv, batch.lengths, self.heads, **how)
            x = x[starts]
        else:
            context = attend(qkv, batch.lengths, self.heads, **how)
        x = x + dropout(self.output(context), p, training)
        value, gate = self.up(self.mlp_norm(x)).chunk(2, dim=-1)
        gated = dropout(self.activation(value) * gate, self.mlp_dropout, training)
        return self.down(gated, x)

    def _rotate(self, qkv: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        q, k, v = qkv.view(1, len(qkv), 3, self.heads, -1).unbind(2)
        q, k = apply_rotary_pos_emb(q, k, *rotation, unsqueeze_dim=2)
        return torch.stack((q, k, v), dim=2).view(len(qkv), -1)


class ModernBertEncoder:
    """ModernBERT's embeddings and layers, run on a batch without padding.

    Args:
        model: The plain classification model, with peft's LoRA layers in place.
        family: The model's family.
    """

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        self.backbone: Any = model.base_model
        layers = list(model.get_submodule(family.layers).children())
        self.layers = [ModernBertLayer(layer, family, model.config, layer is layers[-1]) for layer in layers]

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings [tokens, width] of a batch."""
        x: torch.Tensor = self.backbone.embeddings(input_ids=batch.input_ids.unsqueeze(0))
        return x.squeeze(0)

    def layers_from(self, x: torch.Tensor, batch: Batch, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Run layers ``start`` to ``stop`` (exclusive; all when None) on the hidden states [tokens, width].

        Returns:
            [tokens, width], or [articles, width] when the last layer is among them.
        """
        where, starts = positions_of(batch).unsqueeze(0), starts_of(batch)
        rotations: dict[str, Rotation] = {
            kind: self.backbone.rotary_emb(x, where, kind) for kind in {layer.type for layer in self.layers}
        }
        for layer in self.layers[start:stop]:
            x = layer(x, batch, starts, rotations[layer.type], self.backbone.training)
        ends = stop is None or stop >= len(self.layers)
        return self.backbone.final_norm(x) if ends else x

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the last layer's first tokens [articles, width], normalised."""
        return self.layers_from(self.embed(batch), batch)


def packed_encoder(model: PreTrainedModel, family: Family) -> PackedEncoder | ModernBertEncoder | None:
    """Return the pass without padding of a model's family, None where it has none."""
    if family.style is None:
        return None
    return ModernBertEncoder(model, family) if family.style == "modernbert" else PackedEncoder(model, family)
