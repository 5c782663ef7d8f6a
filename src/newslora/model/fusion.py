"""Several adapters of one backbone as one: their updates combined by peft, their heads joined by the labels' names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import peft
import torch
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.model import adapter, backbone
from newslora.model.about import About
from newslora.model.adapter_config import read_adapter_config
from newslora.model.classifier import NewsModel
from newslora.model.frozen import load_frozen, read_sealed
from newslora.model.residual import lora_layers

Method = Literal["weighted", "svd", "ties", "dare"]
# Of the combinations that peft has, those that work on the products B A: sums of A and of B are no sum of updates.
_KINDS = {"weighted": "cat", "svd": "svd", "ties": "ties_svd", "dare": "dare_linear_svd"}
DENSITY = 0.5  # share of an update's entries that TIES and DARE keep
Update = tuple[torch.Tensor, torch.Tensor]  # A [r, in], B [out, r], to be multiplied as they stand


@dataclass(frozen=True)
class Source:
    """A trained adapter.

    Attributes:
        folder: Its folder.
        about: What it says of itself.
        config: peft's configuration of its updates.
        tensors: Its tensors under peft's names.
    """

    folder: Path
    about: About
    config: peft.LoraConfig
    tensors: dict[str, torch.Tensor]


class Fusion:
    """The updates of several adapters on one frozen backbone.

    Args:
        folders: Their ``adapter`` folders.

    Raises:
        NewsloraError: A folder is damaged, an adapter is on another backbone, or its update is no sum (DoRA).
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        abouts = [read_sealed(folder) for folder in folders]
        for folder, about in zip(folders, abouts, strict=True):
            if about.multi_label:
                raise NewsloraError(f"{folder}: several labels an article cannot be fused; give runs with one label")
        self._plain, self.family = load_frozen(folders[0], abouts[0])
        self.sources = [self._read(folder, about) for folder, about in zip(folders, abouts, strict=True)]
        for source in self.sources:
            _check(source, self.sources[0])
        self.names = tuple(dict.fromkeys(name for about in abouts for name in about.names))
        self.ranks = [max([s.config.r, *(s.config.rank_pattern or {}).values()]) for s in self.sources]
        self._tuned = self._stack()

    def rank(self, method: Method) -> int:
        """Return the rank of the combined update: the sum of all ranks where it is exact, else the greatest."""
        return sum(self.ranks) if method == "weighted" else max(self.ranks)

    def combine(self, weights: Sequence[float], method: Method, seed: int) -> dict[str, Update]:
        """Return each module's combined update.

        Args:
            weights: One for each adapter.
            method: ``weighted``: Σ w ΔW, exact; ``svd``: its best approximation of the greatest rank; ``ties``
                (Yadav et al. 2023, arXiv 2306.01708) and ``dare`` (Yu et al. 2023, arXiv 2311.03099) likewise.
            seed: Of DARE's draws.
        """
        more: dict[str, Any] = (
            {} if method == "weighted" else {"svd_rank": self.rank(method), "svd_full_matrices": False}
        )
        more |= {"density": DENSITY} if method in ("ties", "dare") else {}
        tuner: Any = self._tuned.base_model
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            names = [str(i) for i in range(len(self.sources))]
            tuner.add_weighted_adapter(names, list(weights), "fused", combination_type=_KINDS[method], **more)
        updates = dict(self._updates())
        tuner.delete_adapter("fused")
        return updates

    def _read(self, folder: Path, about: About) -> Source:
        config = read_adapter_config(folder, self._plain, self.family)
        # As a classification model's, peft would let each adapter bring a head, and then refuse to combine them.
        config.task_type, config.modules_to_save = None, None
        return Source(folder, about, config, load_file(folder / "adapter_model.safetensors"))

    def _stack(self) -> peft.PeftModel:
        with adapter.quiet():
            tuned = peft.PeftModel(self._plain, self.sources[0].config, adapter_name="0")
            for i, source in enumerate(self.sources[1:], 1):
                tuned.add_adapter(str(i), source.config)
        for i, source in enumerate(self.sources):
            updates = {name: tensor for name, tensor in source.tensors.items() if ".lora_" in name}
            set_peft_model_state_dict(tuned, updates, adapter_name=str(i))
        return tuned

    def _updates(self) -> Iterator[tuple[str, Update]]:
        names = {id(module): name for name, module in self._plain.named_modules()}
        for layer in lora_layers(self._tuned):
            if "fused" in layer.lora_A:
                a, b = layer.lora_A["fused"].weight, layer.lora_B["fused"].weight
                yield names[id(layer)], (a.detach().clone(), layer.scaling["fused"] * b.detach())


def fused_model(fusion: Fusion, config: RunConfig) -> NewsModel:
    """Return a model with the joined head and room for the combined update, in evaluation mode.

    Args:
        fusion: The adapters.
        config: Settings whose LoRA part has the modules and the rank of the combination, and the scale 1.
    """
    about = fusion.sources[0].about
    model, family = load_frozen(fusion.sources[0].folder, about)
    plain_head = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    backbone.prepare_config(model.config, fusion.names, config.model.dropout)
    widen: Any = model
    widen.num_labels = len(fusion.names)
    parent, _, name = family.head_output.rpartition(".")
    width = model.get_submodule(family.head_output).get_parameter("weight").shape[1]
    setattr(model.get_submodule(parent), name, nn.Linear(width, len(fusion.names)))
    fresh = frozenset(plain_head) if config.model.head == "full" else frozenset()
    tuned = adapter.attach(model, family, config.lora, config.model.head, fresh)
    tokenizer = backbone.load_tokenizer(str(fusion.sources[0].folder))
    max_length = min(source.about.max_length for source in fusion.sources)
    fused = NewsModel(tuned, tokenizer, fusion.names, about.identity, max_length, engine=config.train.engine)
    _join_heads(fused, fusion, plain_head)
    return fused.eval()


@torch.no_grad()
def place(model: NewsModel, updates: dict[str, Update]) -> None:
    """Set the model's low-rank matrices; those of modules without an update to nothing."""
    names = {id(module): name for name, module in model.plain.named_modules()}
    for layer in lora_layers(model):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        a.zero_()
        b.zero_()
        update = updates.get(names[id(layer)])
        if update is not None:
            a[: len(update[0])].copy_(update[0])
            b[:, : update[1].shape[1]].copy_(update[1] / layer.scaling["default"])


def label_groups(fusion: Fusion) -> npt.NDArray[np.int64]:
    """Return a number for each joined label, equal for labels that the same adapters know, int64 [labels]."""
    knowers = [tuple(name in s.about.names for s in fusion.sources) for name in fusion.names]
    return np.array([list(dict.fromkeys(knowers)).index(knower) for knower in knowers])


class Mixture(nn.Module):
    """Scales each adapter's columns of a stacked B by a weight of its own, as learned (cf. Pfeiffer et al. 2021)."""

    def __init__(self, ranks: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(len(ranks), 1))
        self.register_buffer(
            "owner", torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks)), persistent=False
        )

    def forward(self, b: torch.Tensor) -> torch.Tensor:
        """Return B [out, sum of ranks] with its columns weighted."""
        owner = self.get_buffer("owner")
        return b * self.weights[owner, 0]


def make_mixable(model: NewsModel, ranks: Sequence[int]) -> None:
    """Freeze a model with stacked updates but for a weight for each module and adapter."""
    model.requires_grad_(False)
    for layer in lora_layers(model):
        parametrize.register_parametrization(layer.lora_B["default"], "weight", Mixture(ranks), unsafe=True)


@torch.no_grad()
def weigh(model: NewsModel, weight: float) -> None:
    """Set all weights of a model made mixable to one number."""
    for module in model.modules():
        if isinstance(module, Mixture):
            module.weights.fill_(weight)


@torch.no_grad()
def _join_heads(model: NewsModel, fusion: Fusion, plain: dict[str, torch.Tensor]) -> None:
    path = fusion.family.head_output
    output = model.output_layer
    for i, name in enumerate(fusion.names):
        known = [_row(source, path, name) for source in fusion.sources if name in source.about.names]
        output.weight[i] = torch.stack([weight for weight, _ in known]).mean(dim=0)
        output.bias[i] = torch.stack([bias for _, bias in known]).mean(dim=0)
    dense = adapter.head_linear(model.peft, fusion.family.head_dense)
    for part in ("weight", "bias"):
        key = f"{fusion.family.head_dense}.{part}"
        parameter = getattr(dense, part)
        if parameter is not None:
            own = [source.tensors.get(f"base_model.model.{key}", plain[key]) for source in fusion.sources]
            parameter.copy_(torch.stack(own).mean(dim=0))


def _row(source: Source, path: str, name: str) -> Update:
    index = source.about.names.index(name)
    weight, bias = (source.tensors[f"base_model.model.{path}.{part}"][index] for part in ("weight", "bias"))
    return weight, bias


def _check(source: Source, first: Source) -> None:
    theirs, ours = (s.about.identity for s in (source, first))
    if any(theirs.get(key) != ours.get(key) for key in ("weights_sha256", "layers", "quantization")):
        raise NewsloraError(f"{source.folder}: is on another backbone than {first.folder}; fuse runs of one backbone")
    if source.config.use_dora:
        raise NewsloraError(
            f"{source.folder}: a DoRA update is no sum and cannot be fused; give runs without lora.dora"
        )
