"""A baseline from end to end: prepare, fit, calibrate, evaluate, in a run folder like any other."""

from collections.abc import Callable
from json import dumps
from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from newslora.config import RunConfig
from newslora.data.encoding import encode_and_count
from newslora.data.prepare import Prepared, Split, prepare
from newslora.data.streaming import refuse_streaming
from newslora.errors import NewsloraError
from newslora.evaluation.baseline_card import write_baseline_card
from newslora.evaluation.baseline_state import Baseline, save_baseline
from newslora.evaluation.baselines import find_baseline
from newslora.evaluation.calibration import calibrate
from newslora.evaluation.evaluate import evaluate_logits
from newslora.evaluation.slices import measure_slices
from newslora.files import write_text, writing
from newslora.model.backbone import load_tokenizer
from newslora.model.budget import Counts
from newslora.model.memory import keep_memory
from newslora.training.run_folder import RunFolder


def train_baseline(
    name: str, config: RunConfig, output: str | Path, *, report: Callable[[Prepared], None] = lambda _: None
) -> RunFolder:
    """Fit a baseline to the rows that a fine-tuned run with these settings is given, and evaluate it like one.

    Args:
        name: ``majority``, ``svm``, ``logistic``, ``fasttext`` or ``probe``.
        config: The settings; of use are the data, the seed, the backbone's tokenizer and, to ``probe``, its weights.
        output: The run folder; it must be new or empty.
        report: Called with the prepared data.

    Returns:
        The run folder: ``baseline/`` instead of an adapter, and an evaluation when a test table was given. What fails
        or is interrupted leaves no folder.

    Raises:
        NewsloraError: The name, the data, the settings or the folder are at fault; the message says how to put it
            right.
    """
    keep_memory()
    if config.train.seeds is not None:
        raise NewsloraError("train.seeds: several seeds are trained by newslora.seeds.baseline_seeds; give train.seed")
    if config.data.multi_label:
        raise NewsloraError("data.multi_label: baselines know one label an article; leave it out")
    find_baseline(name)
    refuse_streaming(config.data, "a baseline")
    run = RunFolder.create(Path(output), config)
    try:
        _fill(run, name, config, report)
    except BaseException:
        run.discard_unless_resumable()
        raise
    return run


def _fill(run: RunFolder, name: str, config: RunConfig, report: Callable[[Prepared], None]) -> None:
    data = prepare(config.data, load_tokenizer(config.model.backbone, config.model.revision), config.train.seed)
    report(data)
    write_text(run.path / "data_report.json", dumps(data.report, indent=2, ensure_ascii=False) + "\n")
    fitted = find_baseline(name)(data, config)
    _save(run, name, fitted, data)
    if data.test is not None:
        _evaluate(run, fitted, data.test, data.names, config)
    write_baseline_card(run)


def _save(run: RunFolder, name: str, fitted: Baseline, data: Prepared) -> None:
    truth = np.array(data.validation.labels)
    logits = fitted.logits(data.validation.texts, data.validation.encoded)
    predicted = logits.argmax(axis=1)
    figures = {
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
    }
    with writing(run.baseline) as staged:
        staged.mkdir()
        data.cleaner.save(staged / "cleaner.json")
        save_baseline(fitted, name, data.names, staged, figures)
        calibrate(staged, logits, truth)


def _evaluate(run: RunFolder, fitted: Baseline, test: Split, names: tuple[str, ...], config: RunConfig) -> None:
    tokenizer = load_tokenizer(config.model.backbone, config.model.revision)
    tokens = encode_and_count(test.texts, tokenizer, config.data.max_length)[1]  # from the cache
    logits = fitted.logits(test.texts, test.encoded)
    evaluate_logits(
        run,
        logits,
        test.labels,
        names=names,
        places=test.places,
        source=test.source,
        counts=Counts(fitted.parameters, fitted.parameters),
        extra=measure_slices(test.texts, tokens, np.array(test.labels), logits, config.data),
    )
