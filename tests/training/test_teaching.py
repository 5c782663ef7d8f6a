"""Learning from a teacher: Hinton's loss, and a student that is a run like any other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from tests.newsroom import articles, make_backbone, write_table

from newslora.config import RunConfig, TrainConfig, change
from newslora.data.prepare import Prepared, prepare
from newslora.data.teaching import Teaching
from newslora.errors import NewsloraError
from newslora.inference.classifier import NewsClassifier
from newslora.model.backbone import load_tokenizer
from newslora.model.classifier import load_model, predict_logits
from newslora.model.features import logits_and_features
from newslora.training.objective import Objective
from newslora.training.run_folder import RunFolder
from newslora.training.teaching import Lesson, distance, distillation, teach
from newslora.workflow import train

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (3 * torch.randn(6, 4, generator=GENERATOR) for _ in range(2))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_hintons(temperature: float) -> None:
    # T² Σ p_i (log p_i - log q_i), p and q the softmax of logits / T.
    p = softmax(TEACHER.numpy() / temperature, axis=1)
    logs = [log_softmax(side.numpy() / temperature, axis=1) for side in (TEACHER, STUDENT)]
    expected = temperature**2 * (p * (logs[0] - logs[1])).sum(axis=1)
    np.testing.assert_allclose(distillation(STUDENT, TEACHER, temperature).numpy(), expected, rtol=1e-4)


def test_its_gradient_is_the_difference_of_the_softened_probabilities() -> None:
    # Hinton et al. 2015, equation 2: dC/dz = (q - p) / T, times T².
    logits = STUDENT.clone().requires_grad_(True)
    distillation(logits, TEACHER, 3.0).sum().backward()
    expected = 3.0 * (torch.softmax(STUDENT / 3, 1) - torch.softmax(TEACHER / 3, 1))
    torch.testing.assert_close(logits.grad, expected)


def test_rows_without_labels_learn_from_the_teacher_alone() -> None:
    labels = [0, 1, 2, 3, 0, 1]
    known = np.array([True, True, False, True, False, True])
    teaching = Teaching(TEACHER.numpy(), known, temperature=2.0, share=0.7)
    objective = Objective(TrainConfig(label_smoothing=0.1), labels, 4, CPU)
    lesson = Lesson(objective, teaching, CPU)
    rows = [4, 1, 0, 2]
    loss = lesson(STUDENT[rows], torch.tensor(labels)[rows], rows, torch.zeros(4, 3))
    soft = distillation(STUDENT, TEACHER, 2.0)
    hard = objective(STUDENT[[1, 0]], torch.tensor([1, 0]))
    torch.testing.assert_close(loss, 0.3 * hard + 0.7 * (soft[0] + soft[1]) + soft[4] + soft[2])
    only = lesson(STUDENT[[4]], torch.tensor([0]), [4], torch.zeros(1, 3))  # a batch without any label
    torch.testing.assert_close(only, soft[4])


def test_the_distance_is_that_of_patient_distillation() -> None:
    # Sun et al. 2019, equation 7: || h / |h| - t / |t| ||².
    h, t = STUDENT.numpy(), TEACHER.numpy()
    expected = ((h / np.linalg.norm(h, axis=1, keepdims=True) - t / np.linalg.norm(t, axis=1, keepdims=True)) ** 2).sum(
        1
    )
    np.testing.assert_allclose(distance(STUDENT, TEACHER).numpy(), expected, rtol=1e-4)


def test_features_are_learned_by_their_weight() -> None:
    labels, known, features = [0, 1, 2, 3, 0, 1], np.ones(6, dtype=bool), torch.randn(6, 5, generator=GENERATOR)
    plain = Teaching(TEACHER.numpy(), known, temperature=2.0, share=0.7)
    objective, rows = Objective(TrainConfig(), labels, 4, CPU), [4, 1]
    own = torch.randn(2, 5, generator=GENERATOR)
    losses = [
        Lesson(objective, teaching, CPU)(STUDENT[rows], torch.tensor(labels)[rows], rows, own)
        for teaching in (plain, replace(plain, hidden=10.0, features=features.numpy()))
    ]
    torch.testing.assert_close(losses[1] - losses[0], 10 * distance(own, features[rows]).sum())


@pytest.fixture(scope="module")
def config(news_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("tables")
    data = {
        "train": str(write_table(folder / "train.csv", articles(100))),
        "validation": str(write_table(folder / "validation.csv", articles(60, seed=5))),
    }
    lora = {"targets": "all-linear", "r": 4}
    sections = {"data": data, "model": {"backbone": str(news_backbone), "head": "full"}, "lora": lora}
    return RunConfig.from_dict(sections | {"train": {"epochs": 3, "lr": 0.01, "batch_size": 8}})


@pytest.fixture(scope="module")
def teacher(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(config, tmp_path_factory.mktemp("runs") / "teacher")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.csv"
    file.write_text("text\n" + "".join(f"{text}\n" for _, text in articles(50, seed=9)))
    return file


def student(config: RunConfig, teacher: RunFolder, **more: Any) -> RunConfig:
    return change(config, {"distill.teacher": str(teacher.path), **more}, "test")


def rows_of(config: RunConfig) -> Prepared:
    return prepare(config.data, load_tokenizer(config.model.backbone), 0)


def test_the_answers_are_the_teachers(config: RunConfig, teacher: RunFolder, texts: Path) -> None:
    settings = student(
        config, teacher, **{"distill.unlabelled": str(texts), "distill.temperature": 5, "distill.share": 1}
    )
    plain = rows_of(config)
    data = teach(settings, plain, load_tokenizer(config.model.backbone))
    assert data.teaching is not None
    assert (data.teaching.temperature, data.teaching.share) == (5, 1)
    model = load_model(teacher.adapter)
    np.testing.assert_allclose(data.teaching.logits[:100], predict_logits(model, plain.train.encoded), atol=1e-5)
    np.testing.assert_allclose(data.teaching.logits, predict_logits(model, data.train.encoded), atol=1e-5)
    assert data.teaching.labelled.tolist() == [True] * 100 + [False] * 50
    assert data.train.labels[:100] == plain.train.labels
    assert data.train.labels[100:] == data.teaching.logits[100:].argmax(axis=1).tolist()
    assert data.train.texts[100:] == [text for _, text in articles(50, seed=9)]
    assert data.report["teaching"] == {"teacher": str(teacher.path), "unlabelled": 50}


def test_without_a_teacher_nothing_changes(config: RunConfig, texts: Path) -> None:
    data = rows_of(config)
    assert teach(config, data, load_tokenizer(config.model.backbone)) is data
    with pytest.raises(NewsloraError, match=r"distill\.unlabelled: texts without labels need a teacher"):
        teach(change(config, {"distill.unlabelled": str(texts)}, "test"), data, load_tokenizer(config.model.backbone))


def test_a_teacher_of_other_classes_is_refused(config: RunConfig, teacher: RunFolder, tmp_path: Path) -> None:
    few = change(config, {"data.train": str(write_table(tmp_path / "few.csv", articles(60, topics=3)))}, "test")
    few = change(few, {"data.validation": None}, "test")
    with pytest.raises(NewsloraError, match=r"distill\.teacher: .* knows the classes Courts, Farming"):
        teach(student(few, teacher), rows_of(few), load_tokenizer(few.model.backbone))


def test_a_run_that_never_ended_teaches_nothing(config: RunConfig, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "begun", config)
    with pytest.raises(NewsloraError, match="has no adapter; give a run whose training has ended"):
        teach(student(config, run), rows_of(config), load_tokenizer(config.model.backbone))


def test_a_student_agrees_with_its_teacher_and_is_a_run_like_any_other(
    config: RunConfig, teacher: RunFolder, texts: Path, tmp_path: Path
) -> None:
    more = {"model.layers": (1,), "distill.unlabelled": str(texts), "distill.temperature": 2, "train.epochs": 6}
    taught = train(student(config, teacher, **more), tmp_path / "taught")
    alone = train(change(config, {"model.layers": (1,), "train.epochs": 6}, "test"), tmp_path / "alone")
    held_out = [text for _, text in articles(200, seed=77)]
    master, pupil, other = (NewsClassifier.load(run.path).predict_proba(held_out) for run in (teacher, taught, alone))
    agreement = [(side.argmax(axis=1) == master.argmax(axis=1)).mean() for side in (pupil, other)]
    assert agreement[0] > agreement[1]
    assert len(NewsClassifier.load(taught.path).model.plain.get_submodule("bert.encoder.layer")) == 1
    assert taught.card.exists()


def test_a_student_learns_its_teachers_features(config: RunConfig, teacher: RunFolder, tmp_path: Path) -> None:
    runs = {
        weight: train(
            student(config, teacher, **{"model.layers": (1,), "distill.hidden": weight}), tmp_path / str(weight)
        )
        for weight in (0, 30)
    }
    encoded = rows_of(config).validation.encoded
    theirs = logits_and_features(load_model(teacher.adapter), encoded)[1]
    apart = {
        weight: distance(
            torch.from_numpy(logits_and_features(load_model(run.adapter), encoded)[1]), torch.from_numpy(theirs)
        )
        for weight, run in runs.items()
    }
    assert apart[30].mean() < 0.8 * apart[0].mean()


def test_features_of_another_width_are_refused(config: RunConfig, teacher: RunFolder, tmp_path: Path) -> None:
    width = load_model(teacher.adapter).output_layer.in_features
    other = make_backbone(tmp_path / "other", 2 * width)
    settings = student(config, teacher, **{"model.backbone": str(other), "distill.hidden": 1.0})
    with pytest.raises(
        NewsloraError, match=rf"distill\.hidden: the teacher has {width} features, the student {2 * width}"
    ):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_student_of_another_backbone_and_order_of_classes(
    config: RunConfig, teacher: RunFolder, tmp_path: Path
) -> None:
    other = make_backbone(tmp_path / "other")
    names = list(load_model(teacher.adapter).names)[::-1]
    settings = student(config, teacher, **{"model.backbone": str(other), "data.classes": names})
    data = teach(settings, rows_of(settings), load_tokenizer(str(other)))
    assert list(data.names) == names
    assert data.teaching is not None
    right = (data.teaching.logits.argmax(axis=1) == np.array(data.train.labels)).mean()
    assert right > 0.6  # chance: 0.2; columns in the teacher's order would be all but always wrong
