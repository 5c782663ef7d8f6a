import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Command
from tests.newsroom import articles, write_table

from newslora.config import RunConfig
from newslora.inference import export
from newslora.inference.parity import Tolerance
from newslora.training.run_folder import RunFolder
from newslora.workflow import train


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory, news_backbone: Path) -> RunFolder:
    """A finished run that is sure of its answers, or 8 bits would settle some of them otherwise."""
    folder = tmp_path_factory.mktemp("sure")
    data = {"train": str(write_table(folder / "train.csv", articles(240)))}
    data["test"] = str(write_table(folder / "test.csv", articles(30, seed=1)))
    settings = {"train": {"epochs": 8, "lr": 0.02}, "lora": {"targets": "all-linear"}}
    return train(
        RunConfig.from_dict({"data": data, "model": {"backbone": str(news_backbone)}, **settings}), folder / "run"
    )


FORMS = ("merged", "onnx", "onnx-int8")


@pytest.mark.parametrize("form", FORMS)
def test_an_export_takes_the_runs_place(command: Command, sure: RunFolder, tmp_path: Path, form: str) -> None:
    done = command("export", sure.path, "--format", form, "--output", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    assert re.search(r"checked on 30 rows of .*test\.csv: labels agree on \d+\.\d\d%, logits differ by", done.out)
    texts = [text for _, text in articles(9, seed=4)]
    answers = [json.loads(command("predict", path, *texts, "--json").out) for path in (sure.path, tmp_path / "out")]
    assert [row["label"] for row in answers[0]] == [row["label"] for row in answers[1]]


def test_a_program_of_its_own_says_no_more_than_the_figures(sure: RunFolder, tmp_path: Path) -> None:
    words = ("export", str(sure.path), "--format", "onnx-int8", "--output", str(tmp_path / "out"))
    done = subprocess.run(
        [sys.executable, "-m", "newslora.cli.main", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


def test_figures_as_json_on_given_rows(command: Command, sure: RunFolder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "rows.csv", articles(40, seed=5))
    words = ("export", sure.path, "--format", "onnx", "--output", tmp_path / "out", "--data", table, "--json")
    figures = json.loads(command(*words).out)
    assert (figures["rows"], figures["labels_agree"], figures["format"]) == (40, 1.0, "onnx")
    assert figures["accuracy"]["model"] == figures["accuracy"]["export"] > 0.2
    assert figures["bytes"] == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())


def test_a_bulk_prediction_by_a_graph(command: Command, sure: RunFolder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "rows.csv", articles(50, seed=6))
    command("export", sure.path, "--format", "onnx", "--output", tmp_path / "onnx")
    for name, run in (("run", sure.path), ("graph", tmp_path / "onnx")):
        done = command("predict", run, "--input", table, "--output", tmp_path / f"{name}.jsonl")
        assert (done.status, "50 rows written" in done.err) == (0, True)
    rows = [[json.loads(line) for line in (tmp_path / f"{n}.jsonl").read_text().splitlines()] for n in ("run", "graph")]
    assert [row["predicted_label"] for row in rows[0]] == [row["predicted_label"] for row in rows[1]]


def test_an_export_that_fails_says_why_in_one_line(
    command: Command, sure: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export.FORMATS, "onnx", Tolerance(-1.0, 0.0, 0.0))
    done = command("export", sure.path, "--format", "onnx", "--output", tmp_path / "out")
    assert (done.status, done.out, (tmp_path / "out").exists()) == (2, "", False)
    assert re.fullmatch(r"error: .*out: the onnx export is not the model on .*; nothing was written\n", done.err)


@pytest.mark.parametrize(
    "words", [["run"], ["run", "--format", "pickle", "--output", "out"], ["run", "--format", "onnx"]]
)
def test_what_is_no_export(command: Command, words: list[str]) -> None:
    done = command("export", *words)
    assert (done.status, done.out) == (2, "")
    assert re.fullmatch(r"error: .+\n", done.err)


def test_a_graph_predicts_without_pytorch(command: Command, sure: RunFolder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "rows.csv", articles(20, seed=7))
    command("export", sure.path, "--format", "onnx-int8", "--output", tmp_path / "int8")
    words = ["predict", str(tmp_path / "int8"), "--input", str(table), "--output", str(tmp_path / "out.jsonl")]
    code = f"import sys; sys.modules['torch'] = None; from newslora.cli.main import main; sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 20
