"""What a baseline learns, how it scores articles, and how it is kept: safetensors, JSON and fastText's own format."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from newslora.data.encoding import Encoded
from newslora.errors import NewsloraError
from newslora.files import read_bytes, read_json, write_text
from newslora.model.backbone import load_tokenizer
from newslora.model.embedding import embed
from newslora.model.seal import check_seal, seal

_TENSORS: Final = "baseline.safetensors"
_ABOUT: Final = "baseline.json"
_FASTTEXT: Final = "words.fasttext"
_MOST: Final = 1 << 30  # bytes
_ADVICE: Final = "use the run it came from"
# A repaired text holds no control character, so no word of it can be taken for a label.
_MARK: Final = "\x01"
_WORD: Final = re.compile(r"\w+|[^\w\s]")


class Baseline(Protocol):
    """A fitted baseline."""

    @property
    def parameters(self) -> int:
        """Numbers that were learned."""

    def logits(self, texts: Sequence[str], encoded: Encoded) -> np.ndarray:
        """Return scores, float64 [articles, labels]."""

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the learned numbers into a folder that exists; return what else :func:`load_baseline` must know."""


@dataclass(frozen=True)
class Features:
    """What a linear baseline reads of an article: TF-IDF of these terms, the backbone's mean token, or nothing.

    Attributes:
        terms: Words and word pairs.
        idf: Their inverse document frequencies, float64 [terms].
        backbone: Hub id, local folder or alias, where embeddings are read.
        revision: Its revision.
    """

    terms: tuple[str, ...] = ()
    idf: np.ndarray | None = None
    backbone: str | None = None
    revision: str | None = None

    def of(self, texts: Sequence[str], encoded: Encoded) -> np.ndarray | csr_matrix:
        """Return the features, float [articles, features]; sparse for TF-IDF.

        Args:
            texts: Repaired texts.
            encoded: Their tokens, in the backbone's own tokenizer.
        """
        if self.backbone is not None:
            padding = load_tokenizer(self.backbone, self.revision).pad_token_id
            return embed(self.backbone, self.revision, encoded, int(padding or 0)).astype(np.float64)
        return make_tfidf(self).transform(texts) if self.terms else np.zeros((len(texts), 0))


@dataclass(frozen=True)
class Linear:
    """Scores linear in an article's features.

    Attributes:
        weight: float64 [labels, features].
        bias: float64 [labels].
        features: How the features are made.
    """

    weight: np.ndarray
    bias: np.ndarray
    features: Features = field(default_factory=Features)

    @property
    def parameters(self) -> int:
        """Numbers that were learned: weight and bias."""
        return int(self.weight.size + self.bias.size)

    def scores(self, features: np.ndarray | csr_matrix) -> np.ndarray:
        """Return scores, float64 [articles, labels], for features [articles, features]."""
        scores: np.ndarray = features @ self.weight.T + self.bias
        return scores

    def logits(self, texts: Sequence[str], encoded: Encoded) -> np.ndarray:
        """Return scores, float64 [articles, labels]."""
        return self.scores(self.features.of(texts, encoded))

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the tensors; return the terms and the backbone's name."""
        idf = np.zeros(0) if self.features.idf is None else self.features.idf
        tensors = {"weight": self.weight, "bias": self.bias, "idf": idf}
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / _TENSORS)
        about = self.features
        return {"terms": list(about.terms), "backbone": about.backbone, "revision": about.revision}


@dataclass(frozen=True)
class FastText:
    """A model of the fastText library.

    Attributes:
        model: The library's model; its labels are ``_MARK`` and the label's position.
        labels: Number of labels.
    """

    model: Any
    labels: int

    @property
    def parameters(self) -> int:
        """Numbers that were learned: word, bucket and label vectors."""
        return int(self.model.get_input_matrix().size + self.model.get_output_matrix().size)

    def logits(self, texts: Sequence[str], encoded: Encoded) -> np.ndarray:
        """Return log-probabilities, float64 [articles, labels]; those of a label without training rows are very low."""
        names, probs = self.model.predict([_words(text) for text in texts], k=-1)
        scores = np.full((len(texts), self.labels), -1e4)
        for row, (found, values) in enumerate(zip(names, probs, strict=True)):
            scores[row, [int(name.removeprefix(_MARK)) for name in found]] = np.log(np.maximum(values, 1e-9))
        return scores

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the model in fastText's own format, which is no pickle."""
        self.model.save_model(str(folder / _FASTTEXT))
        return {}


def make_tfidf(features: Features | None = None) -> TfidfVectorizer:
    """Return the TF-IDF of words and word pairs that stand in two articles or more: unfitted, or as it was fitted."""
    terms = None if features is None else list(features.terms)
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), min_df=1 if terms else 2, sublinear_tf=True, vocabulary=terms)
    if features is not None:
        vectoriser.idf_ = features.idf
    return vectoriser


def import_fasttext() -> ModuleType:
    """Return the fastText library.

    Raises:
        NewsloraError: It is not installed.
    """
    try:
        return import_module("fasttext")
    except ImportError as error:
        raise NewsloraError("baseline fasttext: the library is missing; install newslora[fasttext]") from error


def train_fasttext(
    library: ModuleType, texts: Sequence[str], labels: Sequence[int], count: int, seed: int, epochs: int
) -> FastText:
    """Train on articles as fastText's authors did on AG News (their ``classification-results.sh``), on one thread.

    Args:
        library: What :func:`import_fasttext` returned.
        texts: Repaired texts.
        labels: Their classes.
        count: Number of classes.
        seed: Of the initial vectors; with one thread the result depends on nothing else.
        epochs: Passes over the articles.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.txt"
        rows = (f"{_MARK}{label} {_words(text)}\n" for text, label in zip(texts, labels, strict=True))
        file.write_text("".join(rows), encoding="utf-8")
        sizes = {"dim": 10, "wordNgrams": 2, "bucket": 1_000_000, "minCount": 1}
        how = {"lr": 0.25, "epoch": epochs, "thread": 1, "seed": seed, "verbose": 0, "label": _MARK}
        return FastText(library.train_supervised(input=str(file), **sizes, **how), count)


def save_baseline(
    baseline: Baseline, name: str, names: Sequence[str], folder: Path, validation: dict[str, float]
) -> None:
    """Write a baseline into a folder that exists, and seal what stands there.

    Args:
        baseline: The fitted baseline.
        name: Its name.
        names: The labels' names, in order.
        folder: Where it goes.
        validation: Its figures on the validation rows, kept for the reader.
    """
    about = {"baseline": name, "labels": list(names), "parameters": baseline.parameters, "validation": validation}
    write_text(folder / _ABOUT, json.dumps(about | baseline.save(folder), ensure_ascii=False) + "\n")
    seal(folder)


def read_baseline(folder: Path) -> dict[str, Any]:
    """Return what a baseline's folder says of it: ``baseline`` (its name), ``labels``, ``parameters`` and more.

    Raises:
        NewsloraError: The file is missing or damaged.
    """
    return read_json(folder / _ABOUT, _MOST, _ADVICE)


def load_baseline(folder: Path) -> Baseline:
    """Read a baseline that :func:`save_baseline` wrote.

    Raises:
        NewsloraError: A file is missing, altered or damaged, or fastText is not installed.
    """
    check_seal(folder)
    about = read_baseline(folder)
    try:
        if about["baseline"] == "fasttext":
            return FastText(import_fasttext().load_model(str(folder / _FASTTEXT)), len(about["labels"]))
        tensors = load(read_bytes(folder / _TENSORS, _MOST, _ADVICE))
        features = Features(tuple(about["terms"]), tensors["idf"], about["backbone"], about["revision"])
        return Linear(tensors["weight"], tensors["bias"], features)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise NewsloraError(f"{folder}: holds no baseline that can be read; {_ADVICE}") from error


def _words(text: str) -> str:
    """Return an article as fastText's authors feed it: lower case, signs apart from words."""
    return " ".join(_WORD.findall(text.lower()))
