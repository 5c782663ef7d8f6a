"""Articles with several labels, from the table to predictions and exports; what knows one label only says so."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from tests.newsroom import FILLERS, TOPICS, articles, write_table
from tests.test_workflow import interrupt_at, outcome
from transformers import pipeline

import newslora
from newslora.baseline import train_baseline
from newslora.config import RunConfig, change
from newslora.data.cleaning import Cleaner
from newslora.errors import NewsloraError
from newslora.evaluation.audit import audit_with_run
from newslora.evaluation.evaluate import evaluate_run
from newslora.evaluation.predictions import read_contender
from newslora.inference.bulk import predict_file
from newslora.inference.export import export_run
from newslora.model.fusion import Fusion
from newslora.model.thresholds import FILE_NAME
from newslora.search.students import student_config
from newslora.seeds import train_seeds
from newslora.serving.library import Library
from newslora.training.run_folder import RunFolder

NAMES = list(TOPICS)[:4]


def write(path: Path, count: int, seed: int) -> Path:
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        own = sorted(draw.sample(NAMES, draw.choice([1, 1, 2])))
        words = [draw.choice(TOPICS[draw.choice(own)] if draw.random() < 0.6 else FILLERS) for _ in range(20)]
        lines.append(["|".join(own), " ".join(words).capitalize() + "."])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["label", "text"], *lines])
    return path


@pytest.fixture(scope="module")
def config(news_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("tables")
    data = {"train": str(write(folder / "train.csv", 240, 0)), "test": str(write(folder / "test.csv", 60, 1))}
    return RunConfig.from_dict(
        {
            "data": data | {"validation_share": 0.25, "multi_label": True},
            "model": {"backbone": str(news_backbone)},
            "lora": {"targets": "all-linear", "r": 4},
            "train": {"epochs": 3, "lr": 0.01, "batch_size": 8},
        }
    )


@pytest.fixture(scope="module")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return newslora.train(config, tmp_path_factory.mktemp("runs") / "run")


def rows_of(config: RunConfig) -> list[dict[str, str]]:
    with Path(str(config.data.test)).open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_learns_and_its_figures_are_those_of_its_predictions(run: RunFolder, config: RunConfig) -> None:
    results = json.loads(run.evaluation_file.read_text())
    with (run.path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["labels"] for row in rows] == [row["label"] for row in rows_of(config)]
    truth, found = (
        np.array([[name in row[column].split("|") for name in NAMES] for row in rows])
        for column in ("labels", "predicted")
    )
    assert results["accuracy"] == accuracy_score(truth, found) > 0.4  # by chance, one of 14 sets
    assert results["macro_f1"] == pytest.approx(f1_score(truth, found, average="macro"))
    assert results["macro_f1"] > 0.7
    thresholds = json.loads((run.adapter / FILE_NAME).read_text())["thresholds"]
    probs = np.array([[float(row[f"p_{name}"]) for name in NAMES] for row in rows])
    np.testing.assert_array_equal(found, probs >= np.array([thresholds[name] for name in NAMES]))
    assert len(set(thresholds.values()) - {0.5}) == 4
    assert (probs.sum(axis=1) > 1.3).any()  # no softmax
    card = run.card.read_text()
    assert "| subset accuracy |" in card
    assert "An article gets each label whose probability reaches" in card


def test_a_loaded_classifier_answers_with_lists(run: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    classifier = newslora.NewsClassifier.load(run.path)
    with (run.path / "predictions.csv").open(newline="") as file:
        expected = [row["predicted"] for row in csv.DictReader(file)]
    answers = classifier.predict([row["text"] for row in rows_of(config)])
    assert ["|".join(answer["labels"]) for answer in answers] == expected
    assert all(answer.keys() == {"labels", "scores"} and set(answer["scores"]) == set(NAMES) for answer in answers)
    predict_file(classifier, str(config.data.test), str(tmp_path / "out.csv"))
    with (tmp_path / "out.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["labels"] for row in written] == expected
    assert set(written[0]) == {"label", "text", "labels", *(f"p_{name}" for name in NAMES)}


def test_evaluating_again_gives_the_same_figures(run: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    results = evaluate_run(run, str(config.data.test), tmp_path / "again")
    assert results == json.loads(run.evaluation_file.read_text())


def test_an_interrupted_run_goes_on_to_the_same_end(run: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        newslora.train(config, tmp_path / "run", report=interrupt_at(25))
    assert outcome(newslora.train(config, tmp_path / "run", resume=True)) == outcome(run)


@pytest.mark.parametrize("form", ["merged", "onnx"])
def test_exports_answer_alike(run: RunFolder, config: RunConfig, form: str, tmp_path: Path) -> None:
    figures = export_run(run.path, form, tmp_path / form)
    assert figures["labels_agree"] == 1.0
    assert figures["accuracy"]["model"] == json.loads(run.evaluation_file.read_text())["accuracy"]
    texts = [row["text"] for row in rows_of(config)]
    ours, theirs = (newslora.NewsClassifier.load(path).predict(texts) for path in (run.path, tmp_path / form))
    assert [answer["labels"] for answer in ours] == [answer["labels"] for answer in theirs]
    if form == "merged":  # transformers knows by the configuration that each label has a probability of its own
        [found] = pipeline("text-classification", model=str(tmp_path / form), device=-1)(
            [Cleaner().repair(texts[0])], top_k=None
        )
        scores = {row["label"]: row["score"] for row in found}
        assert scores == pytest.approx(ours[0]["scores"], abs=1e-4)


def test_an_export_that_answers_otherwise_is_refused(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = newslora.NewsClassifier.logits

    def off(self: Any, texts: Any) -> np.ndarray:
        moved = real(self, texts)
        moved[0] += 1e-3 if self.form == "adapter" else -40.0
        return moved

    monkeypatch.setattr(newslora.NewsClassifier, "logits", off)
    with pytest.raises(NewsloraError, match=r"labels agree on 98\.33%"):
        export_run(run.path, "merged", tmp_path / "merged")


def test_over_seeds_and_on_a_quantised_backbone(config: RunConfig, tmp_path: Path) -> None:
    few = change(config, {"train.seeds": "0,1", "train.epochs": 1, "model.quantization": "nf4"}, "test")
    record = json.loads(train_seeds(few, tmp_path / "seeds").seeds_file.read_text())
    assert len(record["test"]["macro_f1"]["values"]) == 2


def test_a_hierarchy_of_topics_from_table_to_export(config: RunConfig, tmp_path: Path) -> None:
    """Two topics under each of two: an article of one carries the one above, and no answer is without it."""
    above = dict(zip(NAMES, ("north", "north", "south", "south"), strict=True))
    names = sorted({"north", "south", *(f"{above[name]} > {name}".replace(" ", "") for name in NAMES)})
    values: dict[str, Any] = {"data.hierarchy": ">", "train.epochs": 2}
    for side, source in (("train", config.data.train), ("test", str(config.data.test))):
        with Path(source).open(newline="") as file:
            rows = [
                [[f"{above[one]} > {one}" for one in row["label"].split("|")], row["text"]]
                for row in csv.DictReader(file)
            ]
        values[f"data.{side}"] = str(tmp_path / f"{side}.csv")
        with Path(values[f"data.{side}"]).open("w", newline="") as file:
            csv.writer(file).writerows([["label", "text"], *(["|".join(labels), text] for labels, text in rows)])
    trained = newslora.train(change(config, values, "test"), tmp_path / "run")
    results = json.loads(trained.evaluation_file.read_text())
    assert results["labels"] == names
    assert results["per_class"]["north"]["support"] + results["per_class"]["south"]["support"] >= results["n"]
    assert results["micro_f1"] > 0.6
    export_run(trained.path, "onnx", tmp_path / "onnx")
    texts = [row["text"] for row in rows_of(change(config, values, "test"))]
    answers, exported = (newslora.NewsClassifier.load(p).predict(texts) for p in (trained.path, tmp_path / "onnx"))
    assert [answer["labels"] for answer in answers] == [answer["labels"] for answer in exported]
    assert any(">" in label for answer in answers for label in answer["labels"])
    for answer in answers:
        assert {label.partition(">")[0] for label in answer["labels"]} <= set(answer["labels"])


Refused = Callable[[RunFolder, RunConfig, Path], object]
REFUSED: dict[str, tuple[Refused, str]] = {
    "shift": (
        lambda run, config, out: evaluate_run(run, str(config.data.test), out, shift=True),
        "--shift: is measured on runs with one label",
    ),
    "compare": (lambda run, *_: read_contender(run.path), "only runs with one are compared"),
    "audit": (
        lambda run, config, _: audit_with_run(run, config.data.train, config.data),
        "only tables with one are audited",
    ),
    "baseline": (lambda _, config, out: train_baseline("svm", config, out), "baselines know one label an article"),
    "serve": (lambda run, *_: Library([run.path]), "is not served; use newslora predict"),
    "serve two": (lambda run, *_: Library([run.path, run.adapter.parent / "adapter"]), "is not served"),
    "fuse": (lambda run, *_: Fusion([run.adapter, run.adapter]), "several labels an article cannot be fused"),
    "distill": (
        lambda run, _, out: newslora.train(student_config(run.path, layers=1), out),
        r"distill\.teacher: is for one label an article",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_knows_one_label_only_says_so(name: str, run: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    act, message = REFUSED[name]
    with pytest.raises(NewsloraError, match=message):
        act(run, config, tmp_path / "out")


def test_a_teacher_of_several_labels_is_refused(run: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    table = write_table(tmp_path / "one.csv", articles(60, topics=4))
    values = {"data.train": str(table), "data.test": None, "data.multi_label": False, "distill.teacher": str(run.path)}
    with pytest.raises(NewsloraError, match="knows several labels an article; give a teacher of one label"):
        newslora.train(change(config, values, "test"), tmp_path / "out")
