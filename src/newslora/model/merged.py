"""The classifier with its adapter merged into the weights: a plain transformers model."""

from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import peft
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from newslora.errors import NewsloraError
from newslora.model import backbone
from newslora.model.about import MULTI_LABEL, read_about
from newslora.model.adapter import quiet
from newslora.model.classifier import NewsModel
from newslora.model.limits import check_length, check_vocabulary
from newslora.model.quantized import dequantize


class MergedModel(NewsModel):
    """A classifier around a plain transformers model, run packed like any other."""

    @property
    def plain(self) -> PreTrainedModel:
        """The transformers model."""
        return cast(PreTrainedModel, self.peft)  # there is no wrapper around it

    @property
    def output_layer(self) -> nn.Linear:
        """The head's last layer, from features to logits."""
        return cast(nn.Linear, self.plain.get_submodule(self.family.head_output))


def merge(model: NewsModel) -> PreTrainedModel:
    """Return a plain transformers model with the adapter in its weights, W + scale · B A; ``model`` stays as it is.

    A quantised W is merged as what it dequantises to, so that the merged model answers as the trained one does.

    Raises:
        NewsloraError: An adapted weight is another module's too.
    """
    if isinstance(model, MergedModel):
        return model.plain
    _refuse_tied(model.plain)
    tuned: Any = deepcopy(model.peft)
    dequantize(tuned)
    with quiet():
        merged: PreTrainedModel = tuned.merge_and_unload()
    for name, module in list(merged.named_modules()):
        if parametrize.is_parametrized(module, "weight"):  # the head's own low-rank update, while it is trained
            merged.set_submodule(name, _fold(cast(nn.Linear, module)))
    merged.train(False)
    return merged


def _refuse_tied(model: nn.Module) -> None:
    # The update is added in place: every module that shares the weight would get it, and its own besides.
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = owners.setdefault(parameter.data_ptr(), name)
        if first != name and ".base_layer." in f"{first} {name}":
            raise NewsloraError(f"{first} and {name} are one tied weight, and only one is adapted so; untie them first")


def _fold(module: nn.Linear) -> nn.Linear:
    # To take a parametrization off a copy takes it off the original too: they share a class.
    plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    plain.weight = nn.Parameter(module.weight.detach().clone())
    plain.bias = module.bias
    return plain


def load_merged(folder: Path, engine: str = "packed") -> MergedModel:
    """Load a merged export, frozen and in evaluation mode.

    Args:
        folder: The folder that ``newslora export --format merged`` wrote.
        engine: ``packed`` or ``padded``.

    Raises:
        NewsloraError: A file is missing or damaged, or the weights are not whole.
    """
    about = read_about(folder)
    model, missing = backbone.load_backbone(str(folder), None, about.names, None)
    if missing:
        raise NewsloraError(f"{folder}: lacks weights ({min(missing)}, …); export the run again")
    if about.multi_label:
        model.config.problem_type = MULTI_LABEL
    check_length(model.config, about.max_length)
    tokenizer = backbone.load_tokenizer(str(folder))
    check_vocabulary(model.config, tokenizer)
    model.requires_grad_(False)
    tuned = cast(peft.PeftModel, model)
    return MergedModel(tuned, tokenizer, about.names, about.identity, about.max_length, engine=engine).eval()
