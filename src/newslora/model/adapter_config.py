"""Reading ``adapter_config.json``, of which only what newslora itself writes is accepted.

peft's configuration can do far more than newslora asks of it: import a module by name, read other files, change the
backbone's weights on loading, and match module names with any regular expression. So every field that newslora does not
use must have peft's default, and the names of the adapted modules must be names.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import peft
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import nn

from newslora.errors import NewsloraError
from newslora.files import read_json
from newslora.model.families import Family
from newslora.model.seal import ADVICE

FILE_NAME = "adapter_config.json"
_MOST = 1 << 20  # bytes
_ALWAYS_SAVED = {"classifier", "score"}  # peft adds these to what a classification adapter saves
_FREE = frozenset({"peft_version", "auto_mapping"})  # a note; and what only loaders newslora does not use look at


class _Stored(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    peft_type: Literal["LORA"]
    task_type: Literal["SEQ_CLS"]
    base_model_name_or_path: str | None
    revision: str | None = None
    inference_mode: bool
    r: Annotated[int, Field(ge=1)]
    lora_alpha: Annotated[FiniteFloat, Field(gt=0)]
    lora_dropout: Annotated[float, Field(ge=0, lt=1)]
    use_rslora: bool
    use_dora: bool = False
    target_modules: str
    modules_to_save: list[str]
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    alpha_pattern: dict[str, Annotated[FiniteFloat, Field(gt=0)]] = Field(default_factory=dict)


def read_adapter_config(folder: Path, model: nn.Module, family: Family) -> peft.LoraConfig:
    """Return the configuration of the adapter in ``folder``, made anew from what was accepted.

    Args:
        folder: The adapter's folder.
        model: The classification model that it is for.
        family: The model's family.

    Raises:
        NewsloraError: A field that newslora would not have written, or a module that the model lacks.
    """
    file = folder / FILE_NAME
    try:
        stored = _Stored.model_validate(read_json(file, _MOST, ADVICE))
    except ValidationError as error:
        problem = error.errors()[0]
        raise NewsloraError(f"{file}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}; {ADVICE}") from error
    _check_rest(file, stored)
    modules = _adapted(file, stored, model, family)
    return peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS,
        inference_mode=True,
        r=stored.r,
        lora_alpha=stored.lora_alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=stored.lora_dropout,
        use_rslora=stored.use_rslora,
        use_dora=stored.use_dora,
        rank_pattern=stored.rank_pattern,
        alpha_pattern=stored.alpha_pattern,
        target_modules="|".join(re.escape(name) for name in modules),
        modules_to_save=_saved(file, stored, family),
    )


def _check_rest(file: Path, stored: _Stored) -> None:
    usual: dict[str, object] = peft.LoraConfig(task_type=peft.TaskType.SEQ_CLS).to_dict()  # type: ignore[no-untyped-call]
    for name, value in (stored.model_extra or {}).items():
        # A field that another version of peft has is accepted where it is switched off.
        accepted = value == usual[name] if name in usual else not value
        if name not in _FREE and not accepted:
            raise NewsloraError(f"{file}: {name} is {str(value)[:60]}, which newslora never writes; {ADVICE}")


def _adapted(file: Path, stored: _Stored, model: nn.Module, family: Family) -> list[str]:
    linear = {
        re.escape(name): name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{family.layers}.")
    }
    patterns = stored.target_modules.split("|")
    for pattern in (*patterns, *stored.rank_pattern, *stored.alpha_pattern):
        if pattern not in linear and pattern not in linear.values():
            raise NewsloraError(f"{file}: {pattern[:60]!r} is no linear layer of the backbone; {ADVICE}")
    return [linear.get(pattern, pattern) for pattern in dict.fromkeys(patterns)]


def _saved(file: Path, stored: _Stored, family: Family) -> list[str]:
    names = list(dict.fromkeys(stored.modules_to_save))
    if family.head_modules[0] not in names or not set(names) <= {*family.head_modules, *_ALWAYS_SAVED}:
        raise NewsloraError(f"{file}: modules_to_save are {names}, which is not the head; {ADVICE}")
    return names
