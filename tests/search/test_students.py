"""What a student's settings keep of its teacher's."""

from pathlib import Path

import pytest

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.search.students import student_config
from newslora.training.run_folder import RunFolder


@pytest.fixture
def teacher(news_backbone: Path, tmp_path: Path) -> Path:
    lora = {"layers": "1", "ranks": {"value": 3, "1.query": 9}, "alphas": {"1": 2}}
    config = RunConfig.from_dict({"model": {"backbone": str(news_backbone)}, "lora": lora, "train": {"lr": 0.02}})
    return RunFolder.create(tmp_path / "teacher", config).path


def test_fewer_layers_of_the_same_backbone(teacher: Path, news_backbone: Path) -> None:
    config = student_config(teacher, layers=1, unlabelled="more.csv", overrides={"train.epochs": "9"})
    assert (config.model.backbone, config.model.layers) == (str(news_backbone), (1,))
    assert (config.distill.teacher, config.distill.unlabelled) == (str(teacher), "more.csv")
    assert (config.train.lr, config.train.epochs) == (0.02, 9)
    assert (config.lora.layers, config.lora.ranks, config.lora.alphas) == (None, {"value": 3}, {})


def test_layers_are_those_that_the_teacher_kept(news_backbone: Path, tmp_path: Path) -> None:
    config = RunConfig.from_dict({"model": {"backbone": str(news_backbone), "layers": "1"}})
    run = RunFolder.create(tmp_path / "short", config)
    assert student_config(run.path, layers=1).model.layers == (1,)
    with pytest.raises(NewsloraError, match="--layers: 2 of a backbone with 1 layers"):
        student_config(run.path, layers=2)


def test_another_backbone(teacher: Path) -> None:
    config = student_config(teacher, backbone="minilm")
    assert (config.model.backbone, config.model.revision, config.model.layers) == ("minilm", None, None)


@pytest.mark.parametrize("choice", [{}, {"layers": 1, "backbone": "minilm"}])
def test_one_of_the_two_is_given(teacher: Path, choice: dict[str, object]) -> None:
    with pytest.raises(NewsloraError, match="give either --layers N or --backbone M"):
        student_config(teacher, **choice)  # type: ignore[arg-type]
