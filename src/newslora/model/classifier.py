"""The classifier: a frozen backbone with LoRA and a head, run packed where its family allows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import peft
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from newslora.config import RunConfig
from newslora.data.batches import Batch, evaluation_batches, make_batch
from newslora.data.encoding import Encoded
from newslora.model import adapter, backbone
from newslora.model.about import MULTI_LABEL, About, write_about
from newslora.model.budget import Counts, check_budget, count
from newslora.model.families import Family, family_of
from newslora.model.frozen import load_frozen, read_sealed
from newslora.model.limits import check_length, check_vocabulary
from newslora.model.modernbert import packed_encoder
from newslora.model.quantized import quantize
from newslora.model.seal import seal
from newslora.model.shorten import backbone_for_peft, changes, shorten


class NewsModel(nn.Module):
    """A tuned classification model that reads batches without padding.

    Args:
        tuned: Backbone with LoRA and head, from :func:`newslora.model.adapter.attach` or ``load_adapter``.
        tokenizer: The backbone's tokenizer.
        names: Label names, in the order of the logits.
        identity: What tells the backbone from another, as :func:`newslora.model.backbone.identity` gives it.
        max_length: Tokens kept of an article, special tokens included.
        engine: ``packed``, or ``padded`` for the stock pass of transformers.
    """

    def __init__(
        self,
        tuned: peft.PeftModel,
        tokenizer: Tokenizer,
        names: tuple[str, ...],
        identity: dict[str, str | None],
        max_length: int,
        *,
        engine: str = "packed",
    ) -> None:
        super().__init__()
        self.peft = tuned
        self.tokenizer = tokenizer
        self.names = names
        self.identity = identity
        self.max_length = max_length
        self.family: Family = family_of(self.plain.config, str(identity["backbone"]))
        self.encoder = packed_encoder(self.plain, self.family) if engine == "packed" else None

    @property
    def plain(self) -> PreTrainedModel:
        """The transformers model inside peft's wrapper, LoRA layers in place."""
        tuner: Any = self.peft.base_model
        model: PreTrainedModel = tuner.model
        return model

    @property
    def multi_label(self) -> bool:
        """Whether an article may carry several labels."""
        return bool(self.plain.config.problem_type == MULTI_LABEL)

    @property
    def output_layer(self) -> nn.Linear:
        """The head's last layer, from features to logits."""
        return adapter.head_linear(self.peft, self.family.head_output)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits [articles, labels], in the batch's order."""
        if self.encoder is None:
            return self._padded(batch)
        if batch.prefix is None:
            return self.head(self.encoder(batch))
        return self.head(self.encoder.layers_from(batch.prefix, batch, self.first_layer))

    @property
    def first_layer(self) -> int:
        """The lowest layer with LoRA, counted from 0; those below it are frozen for good."""
        layers: Any = self.plain.get_submodule(self.family.layers)
        adapted = (i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
        return next(adapted, len(layers))

    def below(self, batch: Batch) -> torch.Tensor:
        """Return what the frozen layers below the first LoRA layer make of a batch: [tokens, width].

        Raises:
            RuntimeError: The model runs padded.
        """
        if self.encoder is None:
            raise RuntimeError("the padded pass has no frozen prefix")
        return self.encoder.layers_from(self.encoder.embed(batch), batch, 0, self.first_layer)

    def head(self, first: torch.Tensor) -> torch.Tensor:
        """Return logits [articles, labels] for the last layer's first tokens [articles, width]."""
        model: Any = self.plain
        match model.config.model_type:
            case "bert":
                logits = model.classifier(model.dropout(model.bert.pooler(first.unsqueeze(1))))
            case "distilbert":
                logits = model.classifier(model.dropout(torch.relu(model.pre_classifier(first))))
            case "modernbert":
                logits = model.classifier(model.drop(model.head(first)))
            case _:
                logits = model.classifier(first.unsqueeze(1))
        result: torch.Tensor = logits
        return result

    def _padded(self, batch: Batch) -> torch.Tensor:
        sequences = list(torch.split(batch.input_ids, list(batch.lengths)))
        pad = self.tokenizer.pad_token_id
        ids = nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=0 if pad is None else float(pad))
        places = torch.arange(ids.shape[1], device=ids.device)
        mask = places < torch.tensor(batch.lengths, device=ids.device).unsqueeze(1)
        logits: torch.Tensor = self.peft(input_ids=ids, attention_mask=mask.long()).logits
        return logits

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of LoRA and head that are trained, in a fixed order."""
        return [parameter for parameter in self.peft.parameters() if parameter.requires_grad]

    def counts(self) -> Counts:
        """Return the numbers of trainable and of all parameters, counted on the built model."""
        return count(self.peft)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter, its head, the tokenizer, the labels and the backbone's identity into ``folder``.

        Args:
            folder: Made if missing; whoever calls gives a temporary one and renames it. All that stands in it is
                sealed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        base = backbone_for_peft(self.plain, self.identity)
        adapter.save_adapter(self.peft, folder, base, self.identity["commit"])
        _save_tokenizer(self.tokenizer, folder)
        self.plain.config.to_json_file(str(folder / "config.json"))
        write_about(folder, self.identity, self.max_length)
        seal(folder)


def build_model(config: RunConfig, names: tuple[str, ...]) -> NewsModel:
    """Load a backbone, attach LoRA and head, and check the parameter budget on the result.

    Args:
        config: The run's settings; ``train.seed`` decides the initial weights.
        names: Label names, in order.

    Raises:
        NewsloraError: No such backbone, target or layer; over ``lora.budget``; or ``data.max_length`` exceeds the
            backbone's positions; or the backbone cannot be quantised as asked.
    """
    torch.manual_seed(config.train.seed)
    settings = config.model
    model, fresh = backbone.load_backbone(settings.backbone, settings.revision, names, settings.dropout)
    model.config.problem_type = MULTI_LABEL if config.data.multi_label else model.config.problem_type
    check_length(model.config, config.data.max_length)
    family = family_of(model.config, settings.backbone)
    shorten(model, family, settings.layers)
    quantize(model, family, settings.quantization, keep_rest=config.lora.init == "loftq")
    tuned = adapter.attach(model, family, config.lora, settings.head, fresh)
    check_budget(tuned, model.config, settings, config.lora, len(names))
    tokenizer = backbone.load_tokenizer(settings.backbone, settings.revision)
    check_vocabulary(model.config, tokenizer)
    identity = backbone.identity(settings.backbone, settings.revision) | changes(settings)
    return NewsModel(tuned, tokenizer, names, identity, config.data.max_length, engine=config.train.engine)


def load_model(folder: Path, engine: str = "packed") -> NewsModel:
    """Load a run's ``adapter`` folder on its backbone, frozen and in evaluation mode.

    Args:
        folder: The folder that :meth:`NewsModel.save_adapter` wrote.
        engine: ``packed`` or ``padded``.

    Raises:
        NewsloraError: A file is missing, damaged or strange to the folder, or the backbone is not the adapter's.
    """
    about = read_sealed(folder)
    model, family = load_frozen(folder, about)
    return load_on(model, family, folder, about, backbone.load_tokenizer(str(folder)), engine)


def load_on(
    model: PreTrainedModel, family: Family, folder: Path, about: About, tokenizer: Tokenizer, engine: str = "packed"
) -> NewsModel:
    """Put the adapter in ``folder`` on its backbone, whose head has the adapter's labels.

    Raises:
        NewsloraError: One does not fit the other.
    """
    model.config.problem_type = MULTI_LABEL if about.multi_label else model.config.problem_type
    check_length(model.config, about.max_length)
    tuned = adapter.load_adapter(model, folder, family)
    check_vocabulary(model.config, tokenizer)
    return NewsModel(tuned, tokenizer, about.names, about.identity, about.max_length, engine=engine).eval()


@torch.no_grad()
def predict_logits(
    model: NewsModel, encoded: Encoded, progress: Callable[[int], None] | None = None
) -> npt.NDArray[np.float32]:
    """Run the model in evaluation mode over a split, longest articles first.

    Args:
        model: The classifier; its mode is put back afterwards.
        encoded: The split's tokens.
        progress: Called with the number of articles done after each batch.

    Returns:
        float32 [articles, labels], in the split's order.
    """
    logits = np.empty((len(encoded), len(model.names)), dtype=np.float32)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    for rows in evaluation_batches(encoded.lengths):
        batch = make_batch(encoded, rows)
        logits[list(batch.rows)] = model(batch.to(device)).float().cpu().numpy()
        if progress is not None:
            progress(len(rows))
    model.train(was_training)
    return logits


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(str(folder))
    except Exception as error:  # the tokenizer's Rust code tells a full disk by a bare Exception
        raise OSError(str(error)) from error
