"""The main job from a table to a complete run folder, on a tiny backbone and invented articles."""

import csv
import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file
from tests.newsroom import TOPICS, articles, write_table

import newslora
from newslora.config import RunConfig, load_config, preset_names
from newslora.data.prepare import Prepared
from newslora.errors import NewsloraError
from newslora.inference.export import export_run
from newslora.model import adapter
from newslora.model.backbone import load_config as load_backbone_config
from newslora.model.budget import Planner, count, meta_model
from newslora.model.families import family_of
from newslora.training.checkpoints import find_checkpoint
from newslora.training.progress import StepDone
from newslora.training.run_folder import RunFolder
from newslora.workflow import Built

TEST = articles(45, seed=1)
METRICS = {"epoch", "train_loss", "val_loss", "val_accuracy", "val_macro_f1", "lr", "seconds", "samples_per_second"}
EVALUATION = {"accuracy", "macro_f1", "per_class", "confusion_matrix", "ece", "interval_95", "n"}
EVALUATION |= {"trainable_parameters", "total_parameters"}
FILES = {
    *("config.yaml", "metrics.jsonl", "evaluation.json", "predictions.csv", "README.md", "report.html"),
    "environment.json",
    *(f"figures/{name}.{kind}" for name in ("validation_loss", "confusion_matrix") for kind in ("png", "svg")),
    *(f"adapter/{name}" for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json")),
    *("adapter/config.json", "adapter/cleaner.json"),
    *("checkpoints/last/manifest.json", "checkpoints/best/manifest.json"),
}


@pytest.fixture(scope="module")
def config(news_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Settings under which the weights move far from their start."""
    folder = tmp_path_factory.mktemp("tables")
    data = {"train": str(write_table(folder / "train.csv", articles(160))), "validation_share": 0.2}
    data |= {"test": str(write_table(folder / "test.csv", TEST))}
    model = {"backbone": str(news_backbone), "head": "full"}
    lora = {"targets": "all-linear", "r": 4}
    return RunConfig.from_dict(
        {"data": data, "model": model, "lora": lora, "train": {"epochs": 3, "lr": 0.01, "batch_size": 8}}
    )


@pytest.fixture(scope="module")
def whole(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that nothing interrupted."""
    return newslora.train(config, tmp_path_factory.mktemp("runs") / "whole")


def changed(config: RunConfig, section: str, **values: Any) -> RunConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def outcome(run: RunFolder) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What two runs of one seed share: metrics without times, and the bytes of all that does not name the run."""
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in run.metrics()]
    files = {f"adapter/{file.name}" for file in run.adapter.iterdir()} | {"steps.jsonl"}
    files |= {name for name in ("predictions.csv", "evaluation.json") if (run.path / name).exists()}
    return rows, {name: (run.path / name).read_bytes() for name in files}


def interrupt_at(step: int) -> Callable[[object], None]:
    def report(event: object) -> None:
        if isinstance(event, StepDone) and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def test_the_run_folder_is_that_of_the_contract(whole: RunFolder, config: RunConfig) -> None:
    files = {str(file.relative_to(whole.path)) for file in whole.path.rglob("*") if file.is_file()}
    assert files >= FILES
    assert not [name for name in files if name.endswith((".tmp", ".old", ".pkl", ".pt", ".bin"))]
    assert whole.config() == config
    assert [row["epoch"] for row in whole.metrics()] == [1, 2, 3]
    assert all(row.keys() >= METRICS for row in whole.metrics())
    labels = json.loads((whole.adapter / "config.json").read_text())
    assert labels["id2label"] == {str(i): name for i, name in enumerate(sorted(TOPICS))}
    assert labels["label2id"] == {name: i for i, name in enumerate(sorted(TOPICS))}


def test_the_evaluation_is_that_of_the_test_table(whole: RunFolder) -> None:
    results = json.loads(whole.evaluation_file.read_text())
    assert results.keys() >= EVALUATION
    assert results["n"] == len(TEST)
    assert list(results["per_class"]) == sorted(TOPICS)
    assert 0.35 < results["accuracy"] == np.trace(results["confusion_matrix"]) / len(TEST)  # chance: 0.2
    low, high = results["interval_95"]["accuracy"]
    assert low < results["accuracy"] < high
    head, lora = 32 * 32 + 32 + 5 * 32 + 5, 2 * 4 * (4 * (32 + 32) + 2 * (32 + 64))
    assert results["trainable_parameters"] == head + lora


def test_a_loaded_classifier_predicts_what_the_run_predicted(whole: RunFolder) -> None:
    classifier = newslora.NewsClassifier.load(whole.path)
    with (whole.path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    written = np.array([[float(row[f"p_{name}"]) for name in classifier.names] for row in rows])
    assert [row["label"] for row in rows] == [topic for topic, _ in TEST]
    assert np.abs(classifier.predict_proba([text for _, text in TEST]) - written).max() < 1e-6
    answers = classifier.predict([text for _, text in TEST])
    assert [answer["label"] for answer in answers] == [row["predicted"] for row in rows]


def test_the_weights_did_move(whole: RunFolder) -> None:
    tensors = load_file(whole.adapter / "adapter_model.safetensors")
    products = [tensors[name.replace("lora_A", "lora_B")] @ tensors[name] for name in tensors if "lora_A" in name]
    assert len(products) == 2 * 6
    assert min(product.norm().item() for product in products) > 0.05


def test_two_runs_of_one_seed_are_equal_and_another_seed_differs(
    whole: RunFolder, config: RunConfig, tmp_path: Path
) -> None:
    assert outcome(newslora.train(config, tmp_path / "same")) == outcome(whole)
    other, _ = outcome(newslora.train(changed(config, "train", seed=1), tmp_path / "other"))
    assert [row["train_loss"] for row in other] != [row["train_loss"] for row in whole.metrics()]


def test_the_written_settings_repeat_the_run(whole: RunFolder, tmp_path: Path) -> None:
    again = newslora.train(load_config(whole.config_file), tmp_path / "again")
    assert outcome(again) == outcome(whole)
    assert again.config_file.read_bytes() == whole.config_file.read_bytes()


@pytest.mark.parametrize("step", [1, 16, 40])  # of 48: in the first epoch, at its end, in the last
def test_an_interrupted_run_goes_on_to_the_same_end(
    whole: RunFolder, config: RunConfig, tmp_path: Path, step: int
) -> None:
    """Also a guard against passes with weights folded before the last step: a fresh process would differ."""
    with pytest.raises(KeyboardInterrupt):
        newslora.train(config, tmp_path / "run", report=interrupt_at(step))
    assert not (tmp_path / "run" / "adapter").exists()
    assert outcome(newslora.train(config, tmp_path / "run", resume=True)) == outcome(whole)


def test_what_is_drawn_in_training_goes_on_too(config: RunConfig, tmp_path: Path) -> None:
    drawing = changed(changed(config, "model", dropout=0.1), "lora", dropout=0.1)
    run = newslora.train(drawing, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        newslora.train(drawing, tmp_path / "run", report=interrupt_at(21))
    assert outcome(newslora.train(drawing, tmp_path / "run", resume=True)) == outcome(run)


@pytest.mark.parametrize(("kind", "optimizer"), [("int8", "adamw"), ("nf4", "adamw8bit")])
def test_a_quantised_run_learns_and_goes_on_alike_when_interrupted(
    config: RunConfig, tmp_path: Path, kind: str, optimizer: str
) -> None:
    large = 128  # ranks whose matrices are large enough for 8-bit moments
    quantized = changed(changed(config, "model", quantization=kind), "train", optimizer=optimizer, lr=0.003)
    quantized = changed(quantized, "lora", r=large, alpha=2.0 * large)
    run = newslora.train(quantized, tmp_path / "whole")
    losses = [row["train_loss"] for row in run.metrics()]
    assert losses == sorted(losses, reverse=True)
    assert json.loads(run.evaluation_file.read_text())["accuracy"] > 0.4  # chance: 0.2
    moments = load(find_checkpoint(run.checkpoints).files["optimizer.safetensors"])  # type: ignore[union-attr]
    assert (torch.uint8 in {tensor.dtype for tensor in moments.values()}) == (optimizer == "adamw8bit")
    with pytest.raises(KeyboardInterrupt):
        newslora.train(quantized, tmp_path / "run", report=interrupt_at(21))
    assert outcome(newslora.train(quantized, tmp_path / "run", resume=True)) == outcome(run)
    texts = [text for _, text in TEST]
    with (run.path / "predictions.csv").open(newline="") as file:
        expected = [row["predicted"] for row in csv.DictReader(file)]
    assert [answer["label"] for answer in newslora.NewsClassifier.load(run.path).predict(texts)] == expected
    assert export_run(run.path, "merged", tmp_path / "merged")["labels_agree"] == 1.0


@pytest.mark.parametrize("kind", [Prepared, Built])
def test_a_run_interrupted_before_its_first_step_goes_on_from_the_start(
    whole: RunFolder, config: RunConfig, tmp_path: Path, kind: type
) -> None:
    def report(event: object) -> None:
        if isinstance(event, kind):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        newslora.train(config, tmp_path / "run", report=report)
    assert outcome(newslora.train(config, tmp_path / "run", resume=True)) == outcome(whole)


def test_a_warm_head_starts_ahead_of_a_cold_one(config: RunConfig, tmp_path: Path) -> None:
    gentle = changed(changed(config, "train", lr=1e-5, epochs=1), "data", test=None)
    rows = {}
    for warm in (True, False):
        run = newslora.train(changed(gentle, "train", warm_head=warm), tmp_path / str(warm))
        [rows[warm]] = run.metrics()
        assert not run.evaluation_file.exists()
        assert run.card.exists()
    assert rows[True]["val_accuracy"] > 0.4 > rows[False]["val_accuracy"]  # chance: 0.2
    assert rows[True]["val_loss"] < rows[False]["val_loss"]


def test_a_failed_run_gives_its_name_back(config: RunConfig, whole: RunFolder, tmp_path: Path) -> None:
    """Neither before nor after the data are read does a fault of the settings keep a corrected command away."""
    for section, fault in (
        ("data", {"train": "none.csv"}),
        ("lora", {"targets": ("nothing",)}),
        ("lora", {"budget": 9}),
    ):
        with pytest.raises(NewsloraError):
            newslora.train(changed(config, section, **fault), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    assert outcome(newslora.train(config, tmp_path / "run")) == outcome(whole)


def test_a_taken_folder_is_refused_and_left_as_it_is(config: RunConfig, whole: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("Monday")
    before = outcome(whole)
    for folder in (tmp_path / "mine", whole.path):
        with pytest.raises(NewsloraError, match="exists; choose another --output or add --resume"):
            newslora.train(config, folder)
    assert (tmp_path / "mine" / "diary.txt").read_text() == "Monday"
    assert outcome(whole) == before


@pytest.mark.parametrize("name", preset_names())
def test_presets_keep_within_their_budget(name: str) -> None:
    settings = load_config(preset=name)
    backbone = settings.model.backbone
    lora, head = settings.lora, settings.model.head
    plan = Planner(load_backbone_config(backbone), 4, backbone).plan(lora.targets, head, lora.r, lora.budget)
    assert plan.fits
    model: Any = meta_model(load_backbone_config(backbone), 4)
    with torch.device("meta"):
        tuned = adapter.attach(model, family_of(model.config, backbone), lora, head)
    assert count(tuned).trainable == plan.trainable


def test_the_papers_presets_count_what_the_paper_says_can_be_kept() -> None:
    counts = {}
    for name, head in itertools.product(("paper-r8", "paper-r16"), ("full", "lora", "linear")):
        settings = load_config(preset=name)
        planner = Planner(load_backbone_config("roberta-base"), 4, "roberta-base")
        counts[name, head] = planner.plan(settings.lora.targets, head, settings.lora.r, settings.lora.budget).trainable
    assert counts["paper-r8", "full"] == 888_580
    assert counts["paper-r16", "full"] == 1_183_492
    assert counts["paper-r16", "lora"] == 592_900 + 16 * 2 * 768
    assert counts["paper-r16", "linear"] == 592_900
