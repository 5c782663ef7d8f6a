"""``sweep``, ``distill`` and ``fuse`` as typed at a terminal."""

import json
from pathlib import Path

import pytest
import yaml
from tests.cli.conftest import Command, Desk
from tests.newsroom import articles, write_table

from newslora.inference.classifier import NewsClassifier
from newslora.training.run_folder import RunFolder


@pytest.fixture
def space(desk: Desk, tmp_path: Path) -> Path:
    tree = {"data": {"train": str(desk.train)}, "model": {"backbone": str(desk.backbone), "head": "linear"}}
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(tree | {"train": {"epochs": 1}, "search": {"lora.r": [1, 2]}}))
    return file


def test_a_sweep_says_a_line_a_trial_and_what_is_best(command: Command, space: Path, tmp_path: Path) -> None:
    done = command("sweep", space, "--output", tmp_path / "sweep", "--lora.alpha", 4)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert len([line for line in lines if line.startswith("trial ")]) == 2
    assert "2 of 2 trials ran to their end" in done.out
    assert f"newslora train {tmp_path / 'sweep' / 'best.yaml'} --output RUN" in lines[-1]
    again = command("sweep", space, "--output", tmp_path / "sweep", "--lora.alpha", 4, "--json")
    assert json.loads(again.out)["finished"] == 2
    assert again.err == ""  # nothing was tried anew
    train = command("train", tmp_path / "sweep" / "best.yaml", "--output", tmp_path / "run")
    assert train.status == 0, train.err
    assert RunFolder.open(tmp_path / "run").config().lora.alpha == 4


def test_several_objectives_and_a_storage_elsewhere(command: Command, space: Path, tmp_path: Path) -> None:
    words = ("--objectives", "macro_f1,parameters", "--storage", tmp_path / "shared.log", "--json")
    done = command("sweep", space, "--output", tmp_path / "sweep", "--trials", 1, *words)
    assert done.status == 0, done.err
    assert len(json.loads(done.out)["best"]["values"]) == 2
    assert (tmp_path / "shared.log").exists()
    assert not (tmp_path / "sweep" / "journal.log").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--objectives", "speed"), "--objectives: 'speed' is none of accuracy, macro_f1, parameters, seconds"),
        (("--objectives", "seconds,accuracy"), "--objectives: seconds comes first"),
        (("--preset", "paper"), "--preset paper: unknown sweep; there is paper-grid"),
        (("--trials", "0"), "'0' is not a whole number above 0"),
    ],
)
def test_faults_of_a_sweep(words: tuple[str, ...], message: str, command: Command, space: Path, tmp_path: Path) -> None:
    done = command("sweep", space, "--output", tmp_path / "sweep", *words)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_student_of_a_run(command: Command, trained: RunFolder, tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text\n" + "".join(f"{text}\n" for _, text in articles(20, seed=9)))
    words = ("--layers", 1, "--unlabelled", texts, "--distill.temperature", 3, "--json")
    done = command("distill", trained.path, "--output", tmp_path / "student", *words)
    assert done.status == 0, done.err
    assert json.loads(done.out)["evaluation"]["n"] == 30
    config = RunFolder.open(tmp_path / "student").config()
    assert (config.model.layers, config.distill.temperature, config.distill.share) == ((1,), 3.0, 0.9)
    answer = command("predict", tmp_path / "student", "the old judge and the new jury")
    assert answer.status == 0, answer.err
    assert len(NewsClassifier.load(tmp_path / "student").model.plain.get_submodule("bert.encoder.layer")) == 1  # type: ignore[arg-type]
    evaluated = command("evaluate", tmp_path / "student", "--data", config.data.test)
    assert evaluated.status == 0, evaluated.err


def test_a_student_needs_to_know_how_small(command: Command, trained: RunFolder, tmp_path: Path) -> None:
    done = command("distill", trained.path, "--output", tmp_path / "student")
    assert (done.status, done.err) == (2, "error: newslora distill: give either --layers N or --backbone M\n")


def test_runs_fused(command: Command, trained: RunFolder, tmp_path: Path, desk: Desk) -> None:
    other = command(*desk.words(lora_r=2))
    assert other.status == 0, other.err
    table = write_table(tmp_path / "few.csv", articles(40, seed=3))
    done = command("fuse", trained.path, desk.run, "--output", tmp_path / "fused", "--data", table)
    assert done.status == 0, done.err
    story = json.loads((tmp_path / "fused" / "fusion.json").read_text())
    assert story["rows"] == 40
    assert len(story["weights"]) == 2
    assert command("predict", tmp_path / "fused", "storm and gale").status == 0
    done = command("fuse", trained.path, "--output", tmp_path / "again")
    assert (done.status, done.err) == (2, "error: newslora fuse: one run is no two; give two runs or more\n")
