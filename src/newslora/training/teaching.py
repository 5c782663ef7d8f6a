"""Learning from a teacher: its answers to the training rows and to texts without labels, and the loss on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedTokenizerBase

from newslora.config import RunConfig
from newslora.data.cleaning import Cleaner
from newslora.data.encoding import Encoded, encode
from newslora.data.prepare import Prepared, Split
from newslora.data.sources import read_table
from newslora.data.teaching import Teaching
from newslora.errors import NewsloraError
from newslora.model.classifier import NewsModel, load_model, predict_logits
from newslora.training.objective import Objective
from newslora.training.run_folder import RunFolder


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² times the Kullback-Leibler divergence of the student from the teacher at temperature T, [articles].

    It differs from the cross-entropy of Hinton et al. (2015, arXiv 1503.02531, section 2) by a constant, and T² keeps
    its gradient on the scale of that of the labels.

    Args:
        logits: The student's, [articles, classes].
        teacher: The teacher's, of the same shape.
        temperature: T.
    """
    ours, theirs = (log_softmax(side.float() / temperature, dim=-1) for side in (logits, teacher))
    return temperature**2 * kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)


class Lesson:
    """The loss of a student: on the labels where a row has one, and on the teacher's probabilities everywhere.

    Args:
        objective: The loss on labels.
        teaching: The teacher's answers.
        device: Where the logits will be.
    """

    def __init__(self, objective: Objective, teaching: Teaching, device: torch.device) -> None:
        self.objective, self.temperature, self.share = objective, teaching.temperature, teaching.share
        self.teacher = torch.from_numpy(teaching.logits).to(device)
        self.labelled = torch.from_numpy(teaching.labelled).to(device)

    def __call__(self, logits: Tensor, labels: Tensor, rows: Sequence[int]) -> Tensor:
        """Return the loss summed over the articles.

        Args:
            logits: [articles, classes].
            labels: int64 [articles].
            rows: The articles' positions in the training split.
        """
        where = torch.tensor(rows, device=logits.device)
        labelled = self.labelled[where]
        soft = distillation(logits, self.teacher[where], self.temperature)
        hard = self.objective(logits[labelled], labels[labelled])
        return (1 - self.share) * hard + (torch.where(labelled, self.share, 1.0) * soft).sum()


def teach(config: RunConfig, data: Prepared, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    """Return the data with the answers of ``distill.teacher``, and with the texts of ``distill.unlabelled`` added.

    Args:
        config: The student's settings.
        data: The student's rows.
        tokenizer: The student's tokenizer.

    Raises:
        NewsloraError: There is no such run, it knows other classes, or a table cannot be read.
    """
    if config.distill.teacher is None:
        if config.distill.unlabelled is not None:
            raise NewsloraError("distill.unlabelled: texts without labels need a teacher; give distill.teacher RUN")
        return data
    teacher = _load_teacher(Path(config.distill.teacher), data.names)
    logits, train = _answer(teacher, data.train.texts, data.names), data.train
    labelled = np.ones(len(logits), dtype=bool)
    if config.distill.unlabelled is not None:
        more = _read_unlabelled(config, data.cleaner, tokenizer)
        answers = _answer(teacher, more.texts, data.names)
        train = _joined(train, replace(more, labels=answers.argmax(axis=1).tolist()))
        logits, labelled = np.concatenate([logits, answers]), np.arange(len(logits) + len(answers)) < len(logits)
    teaching = Teaching(logits, labelled, config.distill.temperature, config.distill.share)
    report = data.report | {"teaching": {"teacher": config.distill.teacher, "unlabelled": int((~labelled).sum())}}
    return replace(data, train=train, teaching=teaching, report=report)


def _load_teacher(path: Path, names: tuple[str, ...]) -> NewsModel:
    run = RunFolder.open(path)
    if not run.adapter.is_dir():
        raise NewsloraError(f"distill.teacher: {path} has no adapter; give a run whose training has ended")
    teacher = load_model(run.adapter)
    if teacher.multi_label:
        raise NewsloraError(f"distill.teacher: {path} knows several labels an article; give a teacher of one label")
    if set(teacher.names) != set(names):
        raise NewsloraError(
            f"distill.teacher: {path} knows the classes {', '.join(teacher.names)}, the training table "
            f"{', '.join(names)}; give a teacher of the same classes"
        )
    return teacher


def _answer(teacher: NewsModel, texts: list[str], names: tuple[str, ...]) -> np.ndarray:
    """Return the teacher's logits, float32 [texts, classes], classes in the order of ``names``."""
    encoded = encode(texts, teacher.tokenizer, teacher.max_length)
    return predict_logits(teacher, encoded)[:, [teacher.names.index(name) for name in names]]


def _read_unlabelled(config: RunConfig, cleaner: Cleaner, tokenizer: PreTrainedTokenizerBase) -> Split:
    source = str(config.distill.unlabelled)
    table = read_table(source, config.data.model_copy(update={"label": None}), need_label=False)
    pairs = [(text, place) for text, place in zip(map(cleaner.repair, table.texts), table.places, strict=True) if text]
    if not pairs:
        raise NewsloraError(f"{source}: has no text; give a table of articles")
    texts, places = [text for text, _ in pairs], [place for _, place in pairs]
    return Split(texts, [0] * len(texts), places, source, encode(texts, tokenizer, config.data.max_length))


def _joined(first: Split, second: Split) -> Split:
    ids = np.concatenate([first.encoded.ids, second.encoded.ids])
    offsets = np.concatenate([first.encoded.offsets, first.encoded.offsets[-1] + second.encoded.offsets[1:]])
    return replace(
        first,
        texts=first.texts + second.texts,
        labels=first.labels + second.labels,
        places=first.places + second.places,
        encoded=Encoded(ids, offsets),
    )
