"""From probabilities to responses."""

from collections.abc import Sequence

import numpy as np

from newslora.errors import NewsloraError
from newslora.serving import schemas
from newslora.serving.engine import Answer, Explanation, Served


def results(answers: Sequence[Answer], labels: Sequence[str], asked: schemas.ClassifyRequest) -> list[schemas.Result]:
    """Return the results of a request; a text without words gets its error, and the others their answers."""
    return [_result(found, labels, asked.top_k, asked.threshold or 0.0) for found in answers]


def _result(found: Answer, labels: Sequence[str], top_k: int | None, threshold: float) -> schemas.Result:
    if isinstance(found, NewsloraError):
        return schemas.Result(label=None, score=0.0, scores=[], error=str(found))
    order = np.argsort(-found, kind="stable")[:top_k]
    scores = [schemas.LabelScore(label=labels[i], score=float(found[i])) for i in order]
    best = scores[0]
    label = best.label if best.score >= threshold else None
    return schemas.Result(label=label, score=best.score, scores=scores, error=None)


def explain_response(served: Served, found: Explanation) -> schemas.ExplainResponse:
    """Return an explanation as a response."""
    words = [
        schemas.WordWeight(text=word.text, start=word.start, end=word.end, weight=word.weight) for word in found.words
    ]
    score = float(found.probabilities[found.label])
    label = served.labels[found.label]
    return schemas.ExplainResponse(adapter=served.name, label=label, score=score, text=found.text, words=words)


def model_row(served: Served) -> schemas.Model:
    """Return a model as the API lists it."""
    return schemas.Model(
        name=served.name,
        labels=list(served.labels),
        max_length=served.max_length,
        explains=served.explain is not None,
        removable=served.removable,
    )
