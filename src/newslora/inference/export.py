"""Exports of a trained run: a plain Transformers folder or a graph for ONNX Runtime, checked before it has its name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.special import logit

from newslora.errors import NewsloraError
from newslora.files import write_text, writing
from newslora.inference.classifier import NewsClassifier
from newslora.inference.onnx_model import FILE_NAME
from newslora.inference.parity import Rows, Tolerance, compare, faults, read_rows
from newslora.model.about import write_about
from newslora.model.backbone import quiet_transformers
from newslora.model.classifier import NewsModel
from newslora.model.merged import merge
from newslora.model.seal import seal
from newslora.model.temperature import FILE_NAME as CALIBRATION
from newslora.model.thresholds import FILE_NAME as THRESHOLDS

FORMATS: Final = {
    "merged": Tolerance(logits=1e-5, labels=0.0, accuracy=0.0),
    "onnx": Tolerance(logits=1e-4, labels=0.0, accuracy=0.0),
    "onnx-int8": Tolerance(logits=0.2, labels=0.007, accuracy=0.003),
}
"""The forms, and how far each may be from the run."""
RECORD: Final = "export.json"


def export_run(run: str | Path, form: str, output: Path, data: str | None = None) -> dict[str, Any]:
    """Export a trained run and check the export on real rows.

    Every form holds the tokenizer, the labels (``config.json``), ``cleaner.json``, the temperature
    (``calibration.json``) or the labels' thresholds (``thresholds.json``), the figures of the check (``export.json``)
    and checksums; :meth:`newslora.inference.classifier.NewsClassifier.load` reads each.

    Args:
        run: A run folder, an adapter folder, or a merged export.
        form: ``merged``, ``onnx`` or ``onnx-int8``.
        output: Folder to make.
        data: Table to check the export on; by default rows of the run's own test table, or the packaged sample.

    Returns:
        What :func:`newslora.inference.parity.compare` found, ``format``, and the export's size in ``bytes``.

    Raises:
        NewsloraError: The output exists; the run cannot be read or written in this form; or the export answers
            otherwise than the run. Nothing is left then.
    """
    if output.exists():
        raise NewsloraError(f"{output} exists; choose another --output")
    source = NewsClassifier.load(run)
    rows = read_rows(source.adapter, source.names, source.cleaner, data, source.thresholds)
    cuts = None if source.thresholds is None else logit(source.thresholds.values)
    expected = source.logits(rows.texts)
    with writing(output) as staged:
        staged.mkdir()
        _write(source, form, staged)
        figures = {"format": form, **_check(staged, expected, rows, cuts)}
        if wrong := faults(figures, FORMATS[form]):
            about = f"the {form} export is not the model on {rows.source} ({len(rows.texts):,} rows)"
            raise NewsloraError(f"{output}: {about}: {'; '.join(wrong)}; nothing was written")
        write_text(staged / RECORD, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
        seal(staged)
        return figures | {"bytes": sum(file.stat().st_size for file in staged.iterdir())}


def _write(source: NewsClassifier, form: str, folder: Path) -> None:
    model = source.model
    merged = merge(model)
    with quiet_transformers():
        if form == "merged":
            merged.save_pretrained(str(folder))
        else:
            merged.config.save_pretrained(str(folder))
            _graph_writer(form)(merged, model, folder)
        _save_tokenizer(model, folder)
    source.cleaner.save(folder / "cleaner.json")
    for name in (CALIBRATION, THRESHOLDS):
        if (source.adapter / name).exists():
            shutil.copyfile(source.adapter / name, folder / name)
    write_about(folder, model.identity, model.max_length)
    seal(folder)


def _graph_writer(form: str) -> Callable[[Any, NewsModel, Path], None]:
    try:
        from newslora.inference.graph import write_graph
        from newslora.inference.quantize import quantize
    except ImportError as error:
        raise NewsloraError(f"--format {form}: needs ONNX Runtime; install newslora[onnx]") from error

    def write(merged: Any, model: NewsModel, folder: Path) -> None:  # noqa: ANN401 - a transformers model
        plain = folder / FILE_NAME
        write_graph(merged, model.family, plain)
        if form == "onnx-int8":
            exact = plain.rename(folder / "exact.onnx")
            quantize(exact, plain)
            exact.unlink()

    return write


def _save_tokenizer(model: NewsModel, folder: Path) -> None:
    before = model.tokenizer.model_max_length
    model.tokenizer.model_max_length = model.max_length  # where plain transformers cuts, if told to truncate
    try:
        model.tokenizer.save_pretrained(str(folder))
    finally:
        model.tokenizer.model_max_length = before


def _check(folder: Path, expected: np.ndarray, rows: Rows, cuts: np.ndarray | None) -> dict[str, Any]:
    return compare(expected, NewsClassifier.load(folder).logits(rows.texts), rows, cuts)
