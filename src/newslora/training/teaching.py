"""Learning from a teacher: its answers to the training rows and to texts without labels, and the loss on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize
from transformers import PreTrainedTokenizerBase

from newslora.config import RunConfig
from newslora.data.cleaning import Cleaner
from newslora.data.encoding import Encoded, encode
from newslora.data.prepare import Prepared, Split
from newslora.data.sources import read_table
from newslora.data.teaching import Teaching
from newslora.errors import NewsloraError
from newslora.model.classifier import NewsModel, load_model
from newslora.model.features import Numbers, logits_and_features
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


def distance(features: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance between the two sides' normalised features, [articles].

    Sun et al. (2019, arXiv 1908.09355, equation 7), in the last layer alone.

    Args:
        features: The student's, [articles, width].
        teacher: The teacher's, of the same shape.
    """
    ours, theirs = (normalize(side.float(), dim=-1) for side in (features, teacher))
    return (ours - theirs).square().sum(dim=-1)


class Lesson:
    """The loss of a student: on the labels where a row has one, and on what the teacher says of all.

    Args:
        objective: The loss on labels.
        teaching: The teacher's answers.
        device: Where the logits will be.
    """

    def __init__(self, objective: Objective, teaching: Teaching, device: torch.device) -> None:
        self.objective, self.temperature, self.share = objective, teaching.temperature, teaching.share
        self.teacher = torch.from_numpy(teaching.logits).to(device)
        self.labelled = torch.from_numpy(teaching.labelled).to(device)
        self.hidden = teaching.hidden
        self.features = None if teaching.features is None else torch.from_numpy(teaching.features).to(device)

    def __call__(self, logits: Tensor, labels: Tensor, rows: Sequence[int], features: Tensor) -> Tensor:
        """Return the loss summed over the articles.

        Args:
            logits: [articles, classes].
            labels: int64 [articles].
            rows: The articles' positions in the training split.
            features: What the output layer saw, [articles, width].
        """
        where = torch.tensor(rows, device=logits.device)
        labelled = self.labelled[where]
        soft = distillation(logits, self.teacher[where], self.temperature)
        hard = self.objective(logits[labelled], labels[labelled])
        loss = (1 - self.share) * hard + (torch.where(labelled, self.share, 1.0) * soft).sum()
        if self.features is None:
            return loss
        return loss + self.hidden * distance(features, self.features[where]).sum()


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
    train, labelled = data.train, np.ones(len(data.train.labels), dtype=bool)
    logits, features = _answer(teacher, train.texts, data.names)
    if config.distill.unlabelled is not None:
        more = _read_unlabelled(config, data.cleaner, tokenizer)
        answers, more_features = _answer(teacher, more.texts, data.names)
        train = _joined(train, replace(more, labels=answers.argmax(axis=1).tolist()))
        labelled = np.arange(len(logits) + len(answers)) < len(logits)
        logits, features = np.concatenate([logits, answers]), np.concatenate([features, more_features])
    teaching = Teaching(logits, labelled, config.distill.temperature, config.distill.share)
    if config.distill.hidden:
        teaching = replace(teaching, hidden=config.distill.hidden, features=features)
    report = data.report | {"teaching": {"teacher": config.distill.teacher, "unlabelled": int((~labelled).sum())}}
    return replace(data, train=train, teaching=teaching, report=report)


def check_features(teaching: Teaching, width: int) -> None:
    """Check that a student of so many features can be held against its teacher's.

    Raises:
        NewsloraError: The teacher has more or fewer.
    """
    if teaching.features is not None and teaching.features.shape[1] != width:
        raise NewsloraError(
            f"distill.hidden: the teacher has {teaching.features.shape[1]} features, the student {width}; "
            "give a student with layers of the teacher's backbone, or leave distill.hidden at 0"
        )


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


def _answer(teacher: NewsModel, texts: list[str], names: tuple[str, ...]) -> tuple[Numbers, Numbers]:
    """Return the teacher's logits [texts, classes], in the order of ``names``, and features [texts, width]."""
    logits, features = logits_and_features(teacher, encode(texts, teacher.tokenizer, teacher.max_length))
    return logits[:, [teacher.names.index(name) for name in names]], features


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
