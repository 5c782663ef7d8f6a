"""The encoder families: what each calls its layers, its linear modules and its head."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig

from newslora.errors import NewsloraError

TARGETS = ("query", "key", "value", "attention-output", "intermediate", "output")
GROUPS = {"attention": TARGETS[:4], "all-linear": TARGETS}


@dataclass(frozen=True)
class Family:
    """Where a family of encoders keeps its parts, as attribute paths.

    Attributes:
        layers: From the classification model to the list of transformer layers.
        modules: From a layer to the linear module of each LoRA target; several targets may share a fused module.
        attention_norm: From a layer to the LayerNorm after attention (post-norm families).
        output_norm: From a layer to the LayerNorm after the feed-forward network (post-norm families).
        head_dense: From the classification model to the head's hidden linear module.
        head_output: From the classification model to the output layer.
        head_modules: What peft must save so that a fresh load gets this head; first the one with the output layer.
        style: How :mod:`newslora.model.packed` runs the layers without padding, or None where it cannot.
    """

    layers: str
    modules: dict[str, str]
    head_dense: str
    head_output: str
    head_modules: tuple[str, ...]
    attention_norm: str = "attention.output.LayerNorm"
    output_norm: str = "output.LayerNorm"
    style: str | None = "post-norm"


def _bert_modules(
    attention: str = "attention.self", names: tuple[str, str, str] = ("query", "key", "value")
) -> dict[str, str]:
    return {target: f"{attention}.{name}" for target, name in zip(TARGETS, names, strict=False)} | {
        "attention-output": "attention.output.dense",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
    }


def _roberta_like(layers: str, modules: dict[str, str], style: str | None = "post-norm") -> Family:
    return Family(layers, modules, "classifier.dense", "classifier.out_proj", ("classifier",), style=style)


FAMILIES = {
    "bert": Family(
        "bert.encoder.layer", _bert_modules(), "bert.pooler.dense", "classifier", head_modules=("classifier", "pooler")
    ),
    "roberta": _roberta_like("roberta.encoder.layer", _bert_modules()),
    "xlm-roberta": _roberta_like("roberta.encoder.layer", _bert_modules()),
    "electra": _roberta_like("electra.encoder.layer", _bert_modules()),
    "distilbert": Family(
        "distilbert.transformer.layer",
        {
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attention-output": "attention.out_lin",
            "intermediate": "ffn.lin1",
            "output": "ffn.lin2",
        },
        "pre_classifier",
        "classifier",
        head_modules=("classifier", "pre_classifier"),
        attention_norm="sa_layer_norm",
        output_norm="output_layer_norm",
    ),
    "mpnet": _roberta_like(
        "mpnet.encoder.layer",
        _bert_modules("attention.attn", ("q", "k", "v")) | {"attention-output": "attention.attn.o"},
        style=None,
    ),
    "deberta-v2": Family(
        "deberta.encoder.layer",
        _bert_modules(names=("query_proj", "key_proj", "value_proj")),
        "pooler.dense",
        "classifier",
        head_modules=("classifier", "pooler"),
        style=None,
    ),
    "modernbert": Family(
        "model.layers",
        {
            "query": "attn.Wqkv",
            "key": "attn.Wqkv",
            "value": "attn.Wqkv",
            "attention-output": "attn.Wo",
            "intermediate": "mlp.Wi",
            "output": "mlp.Wo",
        },
        "head.dense",
        "classifier",
        head_modules=("classifier", "head"),
        style="modernbert",
    ),
}


def family_of(config: PreTrainedConfig, where: str) -> Family:
    """Return the family of a backbone's configuration.

    Args:
        config: The backbone's configuration.
        where: The backbone as the user named it, for the message.

    Raises:
        NewsloraError: The model is not one of the encoders that newslora knows.
    """
    if config.model_type not in FAMILIES or getattr(config, "is_decoder", False):
        raise NewsloraError(
            f"{where}: a {config.model_type!r} model is not an encoder that newslora can tune; "
            f"give one of the families {', '.join(FAMILIES)}"
        )
    return FAMILIES[config.model_type]


def expand_targets(targets: Iterable[str]) -> tuple[str, ...]:
    """Return the LoRA targets that names and groups stand for, in the order of ``TARGETS``.

    Raises:
        NewsloraError: No target at all, or a name that stands for none.
    """
    wanted: set[str] = set()
    for name in targets:
        if name not in TARGETS and name not in GROUPS:
            known = ", ".join((*TARGETS, *GROUPS))
            raise NewsloraError(f"lora.targets: {name!r} matches no linear layer; choose from {known}")
        wanted.update(GROUPS.get(name, (name,)))
    if not wanted:
        raise NewsloraError(f"lora.targets: is empty; choose from {', '.join((*TARGETS, *GROUPS))}")
    return tuple(target for target in TARGETS if target in wanted)


def chosen_layers(count: int, layers: Iterable[int] | None) -> tuple[int, ...]:
    """Return the layers that get LoRA, checked against the backbone's number of layers.

    Raises:
        NewsloraError: A layer that the backbone lacks, or none at all.
    """
    chosen = tuple(sorted(set(range(count) if layers is None else layers)))
    if not chosen or chosen[0] < 0 or chosen[-1] >= count:
        raise NewsloraError(f"lora.layers: {list(chosen)} are not layers of this backbone; it has 0 to {count - 1}")
    return chosen


def linear_modules(model: nn.Module, family: Family, targets: Iterable[str], layers: Iterable[int] | None) -> list[str]:
    """Return the full names of the modules that LoRA shall adapt; the head is never among them.

    Args:
        model: The classification model, on any device (meta too).
        family: Its family.
        targets: Target names as in the settings.
        layers: Layer numbers, or None for all.

    Raises:
        NewsloraError: A target or a layer that does not exist.
    """
    count = len(list(model.get_submodule(family.layers).children()))
    paths = dict.fromkeys(family.modules[target] for target in expand_targets(targets))
    return [f"{family.layers}.{layer}.{path}" for layer in chosen_layers(count, layers) for path in paths]
