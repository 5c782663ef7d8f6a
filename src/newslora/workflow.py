"""The main job from end to end: prepare, build, train, calibrate, evaluate, draw, describe."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from newslora.config import RunConfig
from newslora.data.encoding import encode_and_count
from newslora.data.prepare import Prepared, prepare
from newslora.data.streaming import check_streaming
from newslora.errors import NewsloraError
from newslora.evaluation.calibration import calibrate
from newslora.evaluation.card import write_card
from newslora.evaluation.environment import save_environment
from newslora.evaluation.evaluate import evaluate_logits
from newslora.evaluation.figures import draw_learning_curves
from newslora.evaluation.multilabel import finish_sets
from newslora.evaluation.report import write_report
from newslora.evaluation.slices import measure_slices
from newslora.files import write_text
from newslora.model.allocation import allocated
from newslora.model.backbone import load_config, load_tokenizer
from newslora.model.budget import Counts
from newslora.model.classifier import NewsModel, build_model, predict_logits
from newslora.model.eva import start_from_inputs
from newslora.model.memory import keep_memory
from newslora.model.warm_head import warm_head
from newslora.training.loop import fit
from newslora.training.multilabel import check_multi_label
from newslora.training.processes import agreed, from_main, start_processes
from newslora.training.progress import Event
from newslora.training.run_folder import RunFolder
from newslora.training.teaching import teach


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
    if config.train.seeds is not None:
        raise NewsloraError("train.seeds: several seeds are trained by newslora.seeds.train_seeds; give train.seed")
    main = start_processes().is_main_process
    tell: Report = report if main else lambda _: None
    with _opened(Path(output), config, resume) as run:
        config, data, model = agreed(lambda: _make(config, tell))
        text = json.dumps(data.report, indent=2, ensure_ascii=False) + "\n"
        from_main(lambda: write_text(run.path / "data_report.json", text))
        fit(config, data, model, run, tell, resume=resume)
        if main:
            finish(run, data, model)
    return run


def _make(config: RunConfig, report: Report) -> tuple[RunConfig, Prepared, NewsModel]:
    load_config(config.model.backbone, config.model.revision)  # no encoder: known before the data are read
    data = prepare_rows(config)
    report(data)
    config = allocated(config, data)
    model = start_model(config, data)
    report(Built(config.model.backbone, model.counts(), config.lora.budget))
    return config, data, model


def prepare_rows(config: RunConfig) -> Prepared:
    """Return what a run is trained on, with its teacher's answers if it has one.

    Raises:
        NewsloraError: The data, the backbone's tokenizer or the teacher are at fault, or a setting does not go with
            several labels an article.
    """
    check_multi_label(config)
    check_streaming(config)
    tokenizer = load_tokenizer(config.model.backbone, config.model.revision)
    return teach(config, prepare(config.data, tokenizer, config.train.seed), tokenizer)


def start_model(config: RunConfig, data: Prepared) -> NewsModel:
    """Build a run's model and bring it to where training starts.

    Args:
        config: The settings, ranks already shared out.
        data: What it will be trained on.

    Raises:
        NewsloraError: The backbone or a setting is at fault, or the budget is exceeded.
    """
    model = build_model(config, data.names)
    if config.lora.init == "eva":
        start_from_inputs(model, data.train.encoded, config.train.seed)
    if config.train.warm_head:
        warm_head(model, data.train.encoded, data.train.labels, config.train.seed, data.kinds)
    return model


def finish(run: RunFolder, data: Prepared, model: NewsModel) -> None:
    """Write what stands in a run folder after training: calibration, evaluation, figures, report, model card.

    Args:
        run: A run whose adapter is written.
        data: What it was trained on.
        model: The model, holding the best epoch's weights.
    """
    save_environment(run)
    draw_learning_curves(run)
    logits = predict_logits(model, data.validation.encoded)
    if data.kinds is not None:
        finish_sets(run, data, data.kinds, logits, lambda split: (predict_logits(model, split.encoded), model.counts()))
        return
    calibrate(run.adapter, logits, np.array(data.validation.labels))
    if data.test is not None:
        logits = predict_logits(model, data.test.encoded)
        tokens = encode_and_count(data.test.texts, model.tokenizer, model.max_length)[1]  # from the cache
        labels = np.array(data.test.labels)
        evaluate_logits(
            run,
            logits,
            data.test.labels,
            names=data.names,
            places=data.test.places,
            texts=data.test.texts,
            source=data.test.source,
            counts=model.counts(),
            extra=measure_slices(data.test.texts, tokens, labels, logits, run.config().data),
        )
    else:
        write_report(run)
    write_card(run, data.report)


@contextmanager
def _opened(output: Path, config: RunConfig, resume: bool) -> Iterator[RunFolder]:
    # Made before the data are read: a taken name costs a second and not minutes, and an interrupt always finds a run
    # to resume. A run that fails before its first checkpoint is taken back.
    run = from_main(lambda: RunFolder.open(output) if resume else RunFolder.create(output, config))
    try:
        yield run
    except Exception:
        if not resume and start_processes().is_main_process:
            run.discard_unless_resumable()
        raise
