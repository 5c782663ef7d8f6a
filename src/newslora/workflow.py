"""The main job from end to end: prepare, build, train, calibrate, evaluate, draw, describe."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from newslora.config import RunConfig
from newslora.data.prepare import Prepared, prepare
from newslora.evaluation.calibration import calibrate
from newslora.evaluation.card import write_card
from newslora.evaluation.evaluate import evaluate_logits
from newslora.evaluation.figures import draw_learning_curves
from newslora.files import write_text
from newslora.model.backbone import load_config, load_tokenizer
from newslora.model.budget import Counts
from newslora.model.classifier import NewsModel, build_model, predict_logits
from newslora.model.memory import keep_memory
from newslora.model.warm_head import warm_head
from newslora.training.loop import fit
from newslora.training.progress import Event
from newslora.training.run_folder import RunFolder


@dataclass(frozen=True)
class Built:
    """The model stands, within its budget.

    Attributes:
        backbone: As named in the settings.
        counts: Its parameters.
        budget: Most trainable parameters allowed.
    """

    backbone: str
    counts: Counts
    budget: int


Report = Callable[[Event | Prepared | Built], None]


def train(config: RunConfig, output: str | Path, *, resume: bool = False, report: Report = lambda _: None) -> RunFolder:
    """Fine-tune a classifier and write a complete run folder.

    Args:
        config: The settings.
        output: The run folder; it must be new or empty, unless ``resume``.
        resume: Go on from the run's last checkpoint, as if it had never stopped.
        report: Called with the prepared data, the built model's counts, and every training event.

    Returns:
        The run folder, with adapter, metrics, figures, model card, and an evaluation when a test table was given.

    Raises:
        NewsloraError: The data, the settings or the folder are at fault; the message says how to put it right.
    """
    keep_memory()
    with _opened(Path(output), config, resume) as run:
        load_config(config.model.backbone, config.model.revision)  # no encoder: known before the data are read
        tokenizer = load_tokenizer(config.model.backbone, config.model.revision)
        data = prepare(config.data, tokenizer, config.train.seed)
        report(data)
        model = build_model(config, data.names)
        report(Built(config.model.backbone, model.counts(), config.lora.budget))
        write_text(run.path / "data_report.json", json.dumps(data.report, indent=2, ensure_ascii=False) + "\n")
        if config.train.warm_head:
            warm_head(model, data.train.encoded, data.train.labels, config.train.seed)
        fit(config, data, model, run, report, resume=resume)
        finish(run, data, model)
    return run


def finish(run: RunFolder, data: Prepared, model: NewsModel) -> None:
    """Write what stands in a run folder after training: calibration, evaluation, figures and model card.

    Args:
        run: A run whose adapter is written.
        data: What it was trained on.
        model: The model, holding the best epoch's weights.
    """
    logits = predict_logits(model, data.validation.encoded)
    calibrate(run.adapter, logits, np.array(data.validation.labels))
    if data.test is not None:
        logits = predict_logits(model, data.test.encoded)
        evaluate_logits(
            run,
            logits,
            data.test.labels,
            names=data.names,
            places=data.test.places,
            source=data.test.source,
            counts=model.counts(),
        )
    draw_learning_curves(run)
    write_card(run, data.report)


@contextmanager
def _opened(output: Path, config: RunConfig, resume: bool) -> Iterator[RunFolder]:
    # Made before the data are read: a taken name costs a second and not minutes, and an interrupt always finds a run
    # to resume. A run that fails before its first checkpoint is taken back.
    run = RunFolder.open(output) if resume else RunFolder.create(output, config)
    try:
        yield run
    except Exception:
        if not resume:
            run.discard_unless_resumable()
        raise
