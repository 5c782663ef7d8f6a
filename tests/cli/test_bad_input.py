"""Whatever the user gets wrong ends in one line on stderr and status 2, and leaves nothing half-written."""

import csv
import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Command, Desk, Done
from tests.newsroom import TOPICS, articles, make_tokenizer, write_table
from transformers import GPT2Config, GPT2Model

from newslora.model.backbone import quiet_transformers
from newslora.training.run_folder import RunFolder

KNOWN = ", ".join(sorted(TOPICS))


def refused(done: Done, pattern: str) -> None:
    """Check that a command was refused in one line that matches the whole of ``pattern``."""
    assert done.status == 2
    assert re.fullmatch(rf"error: {pattern}\n", done.err), done.err


def put(path: Path, line: int, text: str | bytes) -> Path:
    """Replace a line, counted from 1, of a file."""
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = (text.encode() if isinstance(text, str) else text) + b"\n"
    path.write_bytes(b"".join(lines))
    return path


def make_decoder(folder: Path) -> Path:
    with quiet_transformers():
        GPT2Model(GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, n_positions=160)).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    return folder


BAD_TABLES: dict[str, tuple[Callable[[Desk], dict[str, object]], str]] = {
    "missing file": (lambda d: {"data_train": "none.csv"}, r"none\.csv: no such file"),
    "missing test file": (lambda d: {"data_test": "none.csv"}, r"none\.csv: no such file"),
    "a folder": (lambda d: {"data_train": d.train.parent}, r"\S+: is a folder; give a file, .*"),
    "encoding": (
        lambda d: {"data_train": put(d.train, 7, "Weather,Der S\xfcdwind br\xe4chte Regen".encode("latin-1"))},
        r"\S+train\.csv:7: byte 0xfc is not UTF-8; save the table as UTF-8",
    ),
    "too few columns": (
        lambda d: {"data_train": put(d.train, 9, "Courts")},
        r"\S+train\.csv:9: too few columns \(1\); expected 2: label, text",
    ),
    "too many columns": (
        lambda d: {"data_test": put(d.test, 3, "Courts,the judge,rests")},
        r"\S+test\.csv:3: too many columns \(3\); expected 2: label, text",
    ),
    "unknown label": (
        lambda d: {"data_test": put(d.test, 12, "Cooking,the new recipe of an old baker")},
        rf"\S+test\.csv:12: unknown label 'Cooking'; known labels: {KNOWN}",
    ),
    "no label": (lambda d: {"data_train": put(d.train, 5, ",the judge rests")}, r"\S+train\.csv:5: label is missing; .*"),
    "one class": (
        lambda d: {"data_train": write_table(d.train, articles(20, topics=1))},
        r"\S+train\.csv: every row has the label 'Courts'; a classifier needs rows of at least two classes",
    ),
    "nothing left": (
        lambda d: {"data_min_tokens": 40},
        r"\S+train\.csv: 0 of 120 rows are left after filtering \(taken: 120 too_short\); .*",
    ),
    "nothing in it": (lambda d: {"data_train": write_table(d.train, [])}, r"\S+train\.csv: holds no rows; .*"),
    "empty file": (lambda d: {"data_train": Path(shutil.copy(os.devnull, d.train))}, r"\S+train\.csv: .*empty.*"),
    "decoder": (
        lambda d: {"model_backbone": make_decoder(d.run.parent / "gpt2")},
        r"\S+gpt2: a 'gpt2' model is not an encoder that newslora can tune; give one of the families .*",
    ),
    "no backbone": (lambda d: {"model_backbone": d.train.parent}, r"\S+: cannot be loaded as a backbone \(.*\); .*"),
    "no such target": (
        lambda d: {"lora_targets": "query,gate"},
        r"lora\.targets: 'gate' matches no linear layer; choose from query, .*",
    ),
    "no such layer": (lambda d: {"lora_layers": "1-2"}, r"lora\.layers: \[1, 2\] are not layers of this backbone; .* 0 to 1"),
    "over the budget": (
        lambda d: {"lora_budget": 1500, "model_head": "full"},
        r"lora\.budget: this configuration trains 3,269 parameters, over the budget of 1,500; "
        r"nearest that fit: --lora\.r \d+ --model\.head .*",
    ),
    "unknown setting": (lambda d: {"lora_rank": 4}, r"--lora\.rank: unknown setting; did you mean lora\.ranks\?"),
    "out of range": (lambda d: {"lora_r": 0}, r"command line: lora\.r: .*greater than 0.*"),
    "no number": (lambda d: {"train_lr": "fast"}, r"command line: train\.lr: .*number.*"),
    "too long": (lambda d: {"data_max_length": 500}, r"data\.max_length: 500 exceeds this backbone's 160 positions; .*"),
    "unknown tracker": (lambda d: {"train_trackers": "diary"}, r"train\.trackers: unknown tracker diary; known: .*"),
    "fp16 on a CPU": (lambda d: {"train_precision": "fp16"}, r"train\.precision: fp16 does not run on cpu; .*"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TABLES)
def test_training_is_refused_and_leaves_nothing(command: Command, desk: Desk, name: str) -> None:
    spoil, pattern = BAD_TABLES[name]
    changed = spoil(desk)
    before = sorted(desk.run.parent.iterdir())
    refused(command(*desk.words(**changed)), pattern)
    assert sorted(desk.run.parent.iterdir()) == before
    assert not desk.run.exists()


def test_a_taken_folder_is_left_as_it_is(command: Command, desk: Desk) -> None:
    desk.run.mkdir()
    (desk.run / "diary.txt").write_text("Monday")
    refused(command(*desk.words()), rf"{desk.run} exists; choose another --output or add --resume")
    assert [file.name for file in desk.run.iterdir()] == ["diary.txt"]


def test_a_file_in_the_place_of_the_folder_is_left_as_it_is(command: Command, desk: Desk) -> None:
    desk.run.write_text("Monday")
    refused(command(*desk.words()), rf"{desk.run} exists and is a file; choose another --output")
    below = Desk(desk.train, desk.test, desk.backbone, desk.run / "below")
    refused(command(*below.words()), rf"{below.run}: cannot be made \(Not a directory\); choose another --output")
    assert desk.run.read_text() == "Monday"


BAD_FILES = {
    "unknown setting": (
        "lora:\n  rank: 4\n",
        r"\S+mine\.yaml: lora\.rank: unknown setting; did you mean lora\.ranks\?",
    ),
    "unknown section": ("lara:\n  r: 4\n", r"\S+mine\.yaml: lara: unknown setting; did you mean lora\?"),
    "no mapping": ("- lora\n", r"\S+mine\.yaml: holds no settings; give sections such as .*"),
    "no section": ("lora: 4\n", r"\S+mine\.yaml: lora: .*"),
    "no YAML": ("lora:\n  r: [4\n", r"\S+mine\.yaml:\d: not readable as YAML \(.*\); .*"),
    "no text": (b"lora:\n  r: \xff\n", r"\S+mine\.yaml: not readable as YAML \(.*\); .*"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_settings_that_cannot_be_taken(command: Command, desk: Desk, name: str) -> None:
    content, pattern = BAD_FILES[name]
    file = desk.run.with_name("mine.yaml")
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    refused(command(*desk.words(), file), pattern)
    assert not desk.run.exists()


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["train", "none.yaml"], r"none\.yaml: cannot be read \(No such file or directory\); give a YAML file .*"),
        (["train", "--preset", "paper"], r"--preset paper: unknown preset; there are paper-r16, paper-r8, quickstart"),
        (["train", "--resume"], r"--resume: needs the run to go on with; give --output RUN"),
        (["train", "--resume", "--output", "none"], r".*none.*"),
        (["evaluate", "none", "--data", "none.csv"], r"none: no such run folder; .*"),
        (["predict", "none", "a text"], r"none: no such folder; give a run folder that .*"),
        (["plan", "--model", "none/none", "--labels", "4"], r"none/none: cannot be loaded as a backbone \(.*"),
        (["plan", "--model", ".", "--labels", "4"], r"\.: cannot be loaded as a backbone \(.*"),
        (["plan", "--model", "minilm", "--labels", "none"], r".*'none' is not a whole number above 0; .*"),
    ],
)
def test_what_is_not_there(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], pattern: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(command(*words), pattern)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_evaluated_on_known_labels_only(command: Command, trained: RunFolder, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in trained.path.rglob("*") if file.is_file()}
    table = put(write_table(tmp_path / "more.csv", articles(20, seed=2)), 4, "Cooking,the new recipe of an old baker")
    refused(command("evaluate", trained.path, "--data", table), rf"{table}:4: unknown label 'Cooking'; .*: {KNOWN}")
    unlabelled = write_table(tmp_path / "bare.csv", [], ("a", "b"))
    unlabelled.write_text("note\nthe old judge and the new jury\n")
    refused(command("evaluate", trained.path, "--data", unlabelled), rf"{unlabelled}: .*label.*")
    assert {file: file.read_bytes() for file in trained.path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ([], r"newslora predict: give either TEXT … or --input FILE"),
        (["a text", "--input", "in.csv"], r"newslora predict: give either TEXT … or --input FILE"),
        ([" "], r"texts\[0\]: no text \(empty, or only blanks and markup\); give the article's words"),
        (["--input", "none.csv"], r"none\.csv: no such file"),
        (["--input", "in.doc"], r"in\.doc: unknown kind of table; .*"),
        (["--input", "in.csv", "--output", "out.doc"], r"out\.doc: unknown kind of table; .*"),
        (["--input", "in.csv", "--output", "in.csv/out.csv"], r"in\.csv/out\.csv: cannot be written \(.*\); .*"),
        (["--input", "in.csv", "--text", "none"], r"in\.csv: --text 'none': no such column; there are label, text"),
        (["--input", "in.csv", "--output", "out.jsonl"], r"in\.csv:3: too few columns \(1\); expected 2: label, text"),
    ],
)  # fmt: skip
def test_what_cannot_be_classified(
    command: Command,
    trained: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    pattern: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    put(write_table(tmp_path / "in.csv", articles(10)), 3, "Courts")
    refused(command("predict", trained.path, *words), pattern)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.csv", "trained"]


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "config.json", "newslora.json", "cleaner.json"])
def test_a_damaged_run_is_named(command: Command, trained: RunFolder, file: str) -> None:
    (trained.adapter / file).write_bytes(b"\xff\x00{")
    refused(command("predict", trained.path, "the old judge and the new jury"), rf"{trained.adapter}.*")


# From nothing at all to all but the last figure: a whole run takes some 700 KiB, beside 60 KiB of encoded articles.
@pytest.mark.parametrize("kib", [4, 60, 160, 240, 264, 300, 700])
def test_a_full_disk(
    command: Command,
    desk: Desk,
    trained: RunFolder,
    disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    kib: int,
) -> None:
    place = disk(kib)
    monkeypatch.setenv("NEWSLORA_CACHE", str(place / "cache"))
    small = Desk(desk.train, desk.test, desk.backbone, place / "run")
    refused(
        command(*small.words()), rf"{place}\S+: cannot be written \(.*No space left on device.*\); free some space.*"
    )
    assert not [path for path in place.rglob("*") if path.name.endswith((".tmp", ".old"))]
    again = ["--resume"] if small.run.exists() else []
    assert again or kib < 200
    disk(4096)
    assert command(*small.words(), *again).status == 0
    for file in ("adapter/adapter_model.safetensors", "predictions.csv", "figures/validation_loss.svg"):
        assert (small.run / file).read_bytes() == (trained.path / file).read_bytes()


@pytest.mark.parametrize("most", [0, 1 << 10, 1 << 12, 1 << 13, 1 << 14, 1 << 15])
def test_files_that_may_not_grow(command: Command, desk: Desk, most: int) -> None:
    """As a quota refuses it: whatever library writes a file beyond ``most`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        done = command(*desk.words())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(done, rf"{desk.run}\S+: cannot be written \(.*{os.strerror(errno.EFBIG)}.*\); free some space.*")
    again = ["--resume"] if desk.run.exists() else []
    assert command(*desk.words(), *again).status == 0


@pytest.mark.slow
def test_a_console_shows_the_one_line_too(desk: Desk, tmp_path: Path) -> None:
    """In a process of its own, where libraries may write to stderr as they like."""
    with desk.test.open("a", newline="") as file:
        csv.writer(file).writerow(["Cooking", "the new recipe of an old baker " * 40])
    words = [str(word) for word in desk.words()]
    done = subprocess.run(
        [sys.executable, "-m", "newslora.cli.main", *words], capture_output=True, text=True, check=False
    )
    refused(Done(done.returncode, done.stdout, done.stderr), rf"{desk.test}:32: unknown label 'Cooking'; .*: {KNOWN}")
    words = [str(word) for word in desk.words(data_test=None, lora_targets="gate")]
    done = subprocess.run(
        [sys.executable, "-m", "newslora.cli.main", *words], capture_output=True, text=True, check=False
    )
    refused(Done(done.returncode, done.stdout, done.stderr), r"lora\.targets: 'gate' matches no linear layer; .*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.csv", "train.csv"]
