"""What it costs and saves to adapt the upper layers only, with the frozen-prefix cache under them."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from newslora.model.budget import Planner, meta_model
from newslora.model.families import family_of

_QKV = ("query", "key", "value")
_TOKENS = 50  # of an article of news, about


@dataclass(frozen=True)
class Saving:
    """LoRA in some upper layers, beside LoRA in all.

    Attributes:
        layers: As ``lora.layers`` takes them.
        trainable: Trainable parameters.
        first_epoch: Arithmetic of the first epoch, with the one pass below, as a share of an epoch with LoRA in all.
        later_epochs: Arithmetic of each later epoch, as such a share.
        bytes_per_token: What the cache keeps of each token of the training and validation rows.
    """

    layers: str
    trainable: int
    first_epoch: float
    later_epochs: float
    bytes_per_token: int


def savings(
    config: PreTrainedConfig, labels: int, name: str, targets: tuple[str, ...], head: str, r: int
) -> list[Saving]:
    """Return a saving for each first layer that LoRA may have, all layers first.

    Counted are the products of the layers' frozen linear modules, forward and backward, as the packed pass runs them
    on a processor: the last layer's once an article of 50 tokens, since the head reads one of them; no gradient below
    the first LoRA layer, nor through that layer's queries, keys and values.

    Args:
        config: The backbone's configuration.
        labels: Number of labels.
        name: The backbone as the user named it.
        targets: LoRA's targets.
        head: Head mode.
        r: Rank.

    Returns:
        Savings; an empty list for families other than BERT's kind, which run packed or padded in their own ways.

    Raises:
        NewsloraError: The backbone is not an encoder.
    """
    family = family_of(config, name)
    if family.style != "post-norm":
        return []
    layers = list(meta_model(config, labels).get_submodule(family.layers).children())
    sizes: list[dict[str, float]] = [
        {target: layer.get_submodule(path).get_parameter("weight").numel() for target, path in family.modules.items()}
        for layer in layers
    ]
    sizes[-1] = {target: size / _TOKENS for target, size in sizes[-1].items()}
    forward = [sum(size.values()) for size in sizes]
    above = [sum(size for target, size in layer.items() if target not in _QKV) for layer in sizes]
    whole, count = Planner(config, labels, name).plan(targets, head, r, 1), len(layers)
    work = [sum(forward[k:]) + sum(forward[k + 1 :]) + above[k] for k in range(count)]
    return [
        Saving(
            layers=f"{k}-{count - 1}",
            trainable=whole.lora * (count - k) // count + whole.head_parameters,  # the layers are alike
            first_epoch=(sum(forward[:k]) + work[k]) / work[0],
            later_epochs=work[k] / work[0],
            bytes_per_token=2 * int(config.hidden_size) if k else 0,
        )
        for k in range(count)
    ]
