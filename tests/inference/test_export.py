import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

from newslora.errors import NewsloraError
from newslora.inference import export
from newslora.inference.classifier import NewsClassifier
from newslora.inference.export import FORMATS, export_run
from newslora.inference.parity import Tolerance
from newslora.model.temperature import save_calibration
from newslora.training.run_folder import RunFolder

TEXTS = ["Market shares rise on talks", "coach", "The probe and the comet " * 9, "Troops fall", "the match"]
SHARED = {"config.json", "tokenizer.json", "tokenizer_config.json", "cleaner.json", "newslora.json"}
SHARED |= {"calibration.json", "checksums.json", "export.json"}


@pytest.fixture(scope="module")
def run(small_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    copy = RunFolder(Path(shutil.copytree(small_run.path, tmp_path_factory.mktemp("export") / "run")))
    save_calibration(copy.adapter, 1.7, {})
    return copy


@pytest.fixture(scope="module")
def exports(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    for form in FORMATS:
        export_run(run.path, form, folder / form)
    return {form: folder / form for form in FORMATS}


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_answers_as_the_run(run: RunFolder, exports: dict[str, Path], form: str) -> None:
    original, exported = NewsClassifier.load(run.path), NewsClassifier.load(exports[form])
    loose = 0.05 if form == "onnx-int8" else 1e-5
    assert exported.names == original.names
    assert exported.predict_proba(TEXTS) == pytest.approx(original.predict_proba(TEXTS), abs=loose)
    assert [a["label"] for a in exported.predict(TEXTS)] == [a["label"] for a in original.predict(TEXTS)]


@pytest.mark.parametrize("form", FORMATS)
def test_what_stands_in_an_export(exports: dict[str, Path], form: str) -> None:
    weights = "model.safetensors" if form == "merged" else "model.onnx"
    assert {file.name for file in exports[form].iterdir()} == SHARED | {weights}
    record = json.loads((exports[form] / "export.json").read_text())
    assert (record["format"], record["source"], record["rows"]) == (form, "sample", 100)
    assert record["labels_agree"] >= 0.99


def test_merged_in_transformers_pipeline(run: RunFolder, exports: dict[str, Path]) -> None:
    classify = pipeline("text-classification", model=str(exports["merged"]), device=-1)
    found = classify(TEXTS, truncation=True, top_k=None, function_to_apply="none")
    classifier = NewsClassifier.load(run.path)
    for row, expected in zip(found, classifier.logits(TEXTS), strict=True):
        logits = {answer["label"]: answer["score"] for answer in row}
        assert [logits[name] for name in classifier.names] == pytest.approx(expected.tolist(), abs=1e-5)


def test_an_exported_model_is_exported_on(exports: dict[str, Path], tmp_path: Path) -> None:
    figures = export_run(exports["merged"], "onnx", tmp_path / "onnx")
    assert figures["labels_agree"] == 1.0
    with pytest.raises(NewsloraError, match="is an ONNX graph; give the run that it was exported from"):
        export_run(exports["onnx"], "merged", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_out_of_tolerance_leaves_nothing(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setitem(export.FORMATS, form, Tolerance(-1.0, 0.0, 0.0))
    with pytest.raises(
        NewsloraError, match=rf"the {form} export is not the model on sample \(100 rows\): logits differ"
    ):
        export_run(run.path, form, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_graph_is_found(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from newslora.inference import graph

    norm = graph._add_norm

    def drop_one(*arguments: object) -> str:
        result: str = norm(*arguments)  # type: ignore[arg-type]
        return str(arguments[2]) if arguments[-2] == "layer.0.output" else result

    monkeypatch.setattr(graph, "_add_norm", drop_one)
    with pytest.raises(NewsloraError, match="the onnx export is not the model on sample"):
        export_run(run.path, "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_name(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(NewsloraError, match="out exists; choose another --output"):
        export_run(run.path, "onnx", tmp_path / "out")


def test_a_damaged_export_is_not_loaded(exports: dict[str, Path], tmp_path: Path) -> None:
    for form, file in (("onnx", "model.onnx"), ("merged", "model.safetensors")):
        copy = Path(shutil.copytree(exports[form], tmp_path / form))
        content = bytearray((copy / file).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / file).write_bytes(content)
        with pytest.raises(NewsloraError, match=f"{file}: does not match its checksum"):
            NewsClassifier.load(copy)


def test_fingerprints_tell_forms_apart(run: RunFolder, exports: dict[str, Path]) -> None:
    prints = {NewsClassifier.load(path).fingerprint for path in (run.path, *exports.values())}
    assert len(prints) == 4
    assert NewsClassifier.load(run.adapter).fingerprint == NewsClassifier.load(run.path).fingerprint


def test_int8_logits_are_rounded_and_near(exports: dict[str, Path]) -> None:
    exact, rounded = (NewsClassifier.load(exports[form]).logits(TEXTS) for form in ("onnx", "onnx-int8"))
    assert 0 < np.abs(exact - rounded).max() < 0.1 * np.abs(exact).max()
