"""The commands as a user types them: what they print, in which form, and how they end."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Command, Desk
from tests.newsroom import TOPICS, articles, write_table
from transformers import RobertaConfig

import newslora
from newslora.cli.main import main
from newslora.training import stepping
from newslora.training.run_folder import RunFolder

COMMANDS = ("quickstart", "plan", "train", "evaluate", "predict", "audit", "baseline", "compare")
TEXTS = [text for _, text in articles(7, seed=3)]


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)])
def test_help(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    assert out.startswith(f"usage: {' '.join(['newslora', *words])} ")
    assert all(name in out for name in (COMMANDS if not words else ["--json"]))


def test_train_help_tells_of_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    for section, values in newslora.RunConfig().model_dump().items():
        for name in values:
            assert re.search(rf"^  --{section}\.{name} \(default .*\)\n      \S", out, re.MULTILINE), name


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"newslora {newslora.__version__}\n")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["--fly"],
        ["train", "--fly"],
        ["train", "one.yaml", "two.yaml"],
        ["train", "--lora.r"],
        ["train", "--outp", "run"],
        ["plan", "--model", "minilm"],
        ["plan", "--model", "minilm", "--labels", "4", "--lora.r", "8"],
        ["plan", "--model", "minilm", "--labels", "0"],
        ["plan", "--model", "minilm", "--labels", "-4"],
        ["evaluate", "run"],
        ["evaluate", "run", "--dat", "news.csv"],
        ["predict"],
        ["predict", "run", "a text", "--on-error", "fly"],
        ["quickstart", "fly"],
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_what_is_no_command_is_refused_in_one_line(command: Command, words: list[str]) -> None:
    done = command(*words)
    assert (done.status, done.out) == (2, "")
    assert re.fullmatch(r"error: .+\n", done.err)


def plans(done: Any) -> dict[tuple[str, str, int], dict[str, Any]]:
    assert (done.status, done.err) == (0, "")
    return {(",".join(row["targets"]), row["head"], row["r"]): row for row in json.loads(done.out)["plans"]}


def check_paper(rows: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    assert rows["query,value", "full", 8]["trainable"] == 888_580
    assert rows["query,value", "full", 16]["trainable"] == 1_183_492
    assert rows["query,value", "linear", 16]["trainable"] == 592_900
    assert [rows["query,value", head, r]["fits"] for head, r in (("full", 8), ("full", 16), ("linear", 16))] == [
        *(True, False, True)
    ]
    order = [(not row["fits"], -row["trainable"] if row["fits"] else row["trainable"]) for row in rows.values()]
    assert order == sorted(order)


def test_plans_of_a_backbone_known_to_the_package(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_paper(plans(command("plan", "--model", "roberta-base", "--labels", 4, "--json")))


def test_plans_of_a_configuration_in_a_folder(command: Command, tmp_path: Path) -> None:
    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    RobertaConfig(**sizes).save_pretrained(tmp_path / "mine")
    check_paper(plans(command("plan", "--model", tmp_path / "mine", "--labels", 4, "--json")))


def test_plans_within_another_budget(command: Command) -> None:
    rows = plans(command("plan", "--model", "roberta-base", "--labels", 4, "--budget", "500,000", "--json"))
    assert all(row["fits"] == (row["trainable"] <= 500_000) for row in rows.values())
    assert not rows["query,value", "full", 8]["fits"]


def test_a_plan_for_people_shows_what_fits(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    done = command("plan", "--model", "roberta-base", "--labels", 4)
    [full] = [line.split() for line in done.out.splitlines() if line.split()[:2] == ["query,value", "full"]]
    assert full[2:6] == ["741,124", "888,580", "over", "over"]
    assert "1,183,492" not in done.out
    assert done.status == 0


@pytest.mark.slow
def test_plan_offline_in_a_process_of_its_own(tmp_path: Path) -> None:
    place = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    words = [*program(), "plan", "--model", "roberta-base", "--labels", "4", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | place)
    assert done.stderr == ""
    assert any(row["trainable"] == 888_580 for row in json.loads(done.stdout)["plans"])


def test_a_table_of_unknown_columns_trains_by_its_name_alone(command: Command, desk: Desk) -> None:
    header = ["no", "filed on", "ressort", "what happened"]
    for path, seed in ((desk.train, 0), (desk.test, 1)):
        rows = [
            [row, f"2024-03-{row % 28 + 1:02}", topic, text]
            for row, (topic, text) in enumerate(articles(200 if seed == 0 else 60, seed))
        ]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    done = command(*desk.words(train_epochs=4, train_lr=0.005))
    assert (done.status, done.err) == (0, "")
    assert f"classes {', '.join(sorted(TOPICS))}" in done.out
    results = json.loads((desk.run / "evaluation.json").read_text())
    assert results["n"] == 60
    assert results["accuracy"] > 0.5  # chance: 0.2
    report = json.loads((desk.run / "data_report.json").read_text())
    assert report["tables"]["test"]["columns"] == {"text": ["what happened"], "label": "ressort"}


def test_training_tells_of_itself(command: Command, desk: Desk) -> None:
    done = command(*desk.words())
    assert (done.status, done.err) == (0, "")
    out = " ".join(done.out.split())
    assert re.search(r"data: \d+ training, \d+ validation, 30 test articles; 0 filtered out; classes Courts, ", out)
    assert re.search(r"model: \S+, [\d,]+ trainable of [\d,]+ parameters", out)
    assert [int(number) for number in re.findall(r"epoch (\d): train loss \d\.\d{4}, validation loss", out)] == [1, 2]
    assert f"accuracy {json.loads((desk.run / 'evaluation.json').read_text())['accuracy']:.4f}" in out
    assert str(desk.run / "figures") in done.out


def test_training_as_json(command: Command, desk: Desk) -> None:
    done = command(*desk.words(), "--json")
    assert done.status == 0
    results = json.loads(done.out)
    run = RunFolder(desk.run)
    assert results["run"] == str(desk.run)
    assert results["metrics"] == run.metrics()
    assert results["evaluation"] == json.loads(run.evaluation_file.read_text())


def test_training_without_a_test_table(command: Command, desk: Desk) -> None:
    done = command(*desk.words(data_test=None))
    assert (done.status, done.err) == (0, "")
    assert re.search(r"validation accuracy \d\.\d{4} \(no test table given\)", done.out)
    assert json.loads(command(*desk.words(data_test=None), "--resume", "--json").out)["evaluation"] is None


def test_the_runs_own_settings_repeat_it(command: Command, trained: RunFolder, tmp_path: Path) -> None:
    assert command("train", trained.config_file, "--output", tmp_path / "again").status == 0
    for file in ("adapter/adapter_model.safetensors", "predictions.csv", "config.yaml"):
        assert (tmp_path / "again" / file).read_bytes() == (trained.path / file).read_bytes()


def test_an_interrupted_training_says_how_it_goes_on(
    command: Command, desk: Desk, trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = stepping.make_batch, []

    def make_batch(*args: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **named)

    monkeypatch.setattr(stepping, "make_batch", make_batch)
    done = command(*desk.words())
    assert (done.status, done.err) == (1, f"interrupted; newslora train --resume --output {desk.run} goes on\n")
    monkeypatch.undo()
    done = command("train", "--resume", "--output", desk.run)
    assert done.status == 0
    assert "resumed after step 3 " in " ".join(done.out.split())
    for file in ("adapter/adapter_model.safetensors", "predictions.csv"):
        assert (desk.run / file).read_bytes() == (trained.path / file).read_bytes()


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(desk: Desk, command: Command) -> None:
    words = [*program(), *map(str, desk.words(train_epochs=2000))]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "epoch 2:" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, f"interrupted; newslora train --resume --output {desk.run} goes on\n")
    done = command("train", "--resume", "--output", desk.run, "--train.epochs", 2000, "--train.patience", 1)
    assert "patience" in done.err  # what the run began with is not changed under its feet
    assert (desk.run / "checkpoints" / "last" / "manifest.json").exists()


def test_evaluation(command: Command, trained: RunFolder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "more.csv", articles(50, seed=2), ("topic", "story"))
    done = command("evaluate", trained.path, "--data", table, "--output", tmp_path / "there", "--json")
    assert done.status == 0
    results = json.loads(done.out)
    assert results == json.loads((tmp_path / "there" / "evaluation.json").read_text())
    assert results["n"] == 50
    assert json.loads(trained.evaluation_file.read_text())["n"] == 30
    done = command("evaluate", trained.path, "--data", table)
    assert done.status == 0
    assert f"accuracy {results['accuracy']:.4f} (95% interval " in " ".join(done.out.split())
    assert all(name in done.out for name in TOPICS)
    assert json.loads(trained.evaluation_file.read_text()) == results


def test_an_evaluation_repeats_the_runs_own(command: Command, trained: RunFolder, tmp_path: Path) -> None:
    own = json.loads(trained.evaluation_file.read_text())
    done = command("evaluate", trained.path, "--data", own["source"], "--output", tmp_path / "there", "--json")
    again = json.loads(done.out)
    assert again.keys() == own.keys()
    for name in ("accuracy", "macro_f1", "confusion_matrix", "n", "trainable_parameters", "total_parameters"):
        assert again[name] == own[name], name
    assert again["log_loss"] == pytest.approx(own["log_loss"], abs=1e-6)


def test_texts_are_classified(command: Command, trained: RunFolder) -> None:
    answers = newslora.NewsClassifier.load(trained.path).predict(TEXTS)
    done = command("predict", trained.path, *TEXTS)
    assert (done.status, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == [answer["label"] for answer in answers]
    assert json.loads(command("predict", trained.path, *TEXTS, "--json").out) == answers


def test_a_file_is_classified(command: Command, trained: RunFolder, tmp_path: Path) -> None:
    answers = newslora.NewsClassifier.load(trained.path).predict(TEXTS)
    table = write_table(tmp_path / "in.csv", [("x", text) for text in TEXTS], ("id", "text"))
    done = command("predict", trained.path, "--input", table, "--output", tmp_path / "out.jsonl")
    assert (done.status, done.out, done.err) == (0, "", "7 rows written, 0 skipped\n")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [
        (text, answer["label"]) for text, answer in zip(TEXTS, answers, strict=True)
    ]
    for row, answer in zip(rows, answers, strict=True):
        scores = [row[f"p_{name}"] for name in answer["scores"]]
        assert scores == pytest.approx(list(answer["scores"].values()), abs=1e-6)


def test_rows_that_cannot_be_read_are_skipped_on_demand(command: Command, trained: RunFolder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "in.csv", [("x", text) for text in TEXTS], ("id", "text"))
    table.write_text(table.read_text() + "y\nx," + TEXTS[0] + "\n")
    done = command("predict", trained.path, "--input", table, "--output", tmp_path / "out.csv", "--on-error", "skip")
    assert done.status == 0
    assert f"skipped: {table}:9: too few columns" in " ".join(done.err.split())
    assert "8 rows written, 1 skipped" in done.err


def test_standard_input_is_classified(command: Command, trained: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = newslora.NewsClassifier.load(trained.path).predict(TEXTS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    done = command("predict", trained.path, "--input", "-")
    assert (done.status, done.err) == (0, "7 rows written, 0 skipped\n")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [
        (text, answer["label"]) for text, answer in zip(TEXTS, answers, strict=True)
    ]


@pytest.mark.slow
def test_quickstart_as_json(command: Command, tmp_path: Path) -> None:
    done = command("quickstart", "--output", tmp_path / "run", "--json")
    assert done.status == 0
    results = json.loads(done.out)
    assert results["evaluation"]["accuracy"] > 0.7
    assert results["evaluation"]["trainable_parameters"] < 1_000_000


def program() -> list[str]:
    return [sys.executable, "-m", "newslora.cli.main"]


def seconds(words: list[str]) -> float:
    """Return the least time of five starts: what the program takes, and not what else the machine does."""

    def start() -> float:
        begin = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        return time.perf_counter() - begin

    return min(start() for _ in range(5))


@pytest.mark.parametrize(
    ("words", "limit"), [([sys.executable, "-c", "import newslora"], 0.3), ([*program(), "--help"], 0.5)]
)
def test_the_start_is_quick(words: list[str], limit: float) -> None:
    assert seconds(words) < 3 * limit  # three times as long on a busy machine


HEAVY = ("torch", "transformers", "peft", "sklearn", "pandas", "matplotlib", "datasets", "pyarrow", "numpy")


@pytest.mark.parametrize(
    "line",
    [
        "import newslora",
        "from newslora.cli.parser import build_parser; build_parser().format_help()",
        "newslora.RunConfig",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(line: str) -> None:
    check = f"import newslora; {line}; import sys; print(*set({HEAVY}) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout == "\n"


def test_a_reader_that_leaves_ends_the_command_quietly(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("newslora.cli.commands.print_json", leave)
    done = command("plan", "--model", "roberta-base", "--labels", 4, "--json")
    assert (done.status, done.err) == (1, "")


@pytest.mark.parametrize(("rank", "local", "told"), [("0", "0", True), ("1", "1", False), ("2", "0", True)])
def test_the_first_process_of_each_machine_says_what_went_wrong(
    rank: str, local: str, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local)
    assert main(["train", "--train.epoch", "3"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") if told else not said
