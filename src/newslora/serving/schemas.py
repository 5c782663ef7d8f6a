"""Requests and responses, as the API's description shows them."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from newslora.serving.library import NAME
from newslora.serving.limits import MAX_CHARACTERS, MAX_TEXTS

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=64)]


def _whole(value: object) -> object:
    # In JSON 3.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ClassifyRequest(_Request):
    """Texts to classify."""

    texts: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
    """One article, or a list of them."""
    adapter: Name | None = None
    """Which model shall answer; the default one when not given."""
    top_k: Annotated[Annotated[int, Field(ge=1, le=10_000)], BeforeValidator(_whole)] | None = None
    """How many labels to list, the likeliest first; all when not given."""
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Abstain (label null) where the likeliest label's probability is below this."""


class LabelScore(BaseModel):
    """A label and its calibrated probability."""

    label: str
    score: float


class Result(BaseModel):
    """The answer for one text."""

    label: str | None
    """The likeliest label, or null where the model abstains."""
    score: float
    """The likeliest label's calibrated probability."""
    scores: list[LabelScore]
    """Labels by probability, greatest first."""
    error: str | None
    """Why this text has no answer; null where it has one."""


class ClassifyResponse(BaseModel):
    """The answers, in the order of the texts."""

    adapter: str
    results: list[Result]


class ExplainRequest(_Request):
    """A text to explain."""

    text: Text
    adapter: Name | None = None
    """Which model shall answer; the default one when not given."""
    label: Annotated[str, Field(max_length=1000)] | None = None
    """The label to explain; the likeliest when not given."""


class WordWeight(BaseModel):
    """A word and how much it spoke for the label, in logits; below 0, against it."""

    text: str
    start: int
    end: int
    weight: float


class ExplainResponse(BaseModel):
    """The words' weights; they sum up to the label's logit above the mean of the others."""

    adapter: str
    label: str
    score: float
    text: str
    """The text as the model read it; `start` and `end` count its characters."""
    words: list[WordWeight]
    """The words read, in order; what follows the last one was cut off."""


class Model(BaseModel):
    """A model that is served."""

    name: str
    labels: list[str]
    max_length: int
    """Tokens read of a text."""
    explains: bool
    """Whether /v1/explain answers for it."""
    removable: bool
    """Whether it came from the folder of adapters."""


class ModelsResponse(BaseModel):
    """What is served."""

    default: str
    changeable: bool
    """Whether adapters may be added and removed."""
    models: list[Model]


class AdapterRequest(_Request):
    """An adapter to load."""

    name: Name
    """Its folder's name within the folder of adapters."""


class RescanResponse(BaseModel):
    """What a look through the folder of adapters changed."""

    added: list[str]
    removed: list[str]
    failed: dict[str, str]


class Status(BaseModel):
    """Whether the server lives, or is ready."""

    status: str


class Problem(BaseModel):
    """What is wrong, and what would be right."""

    error: str
