import base64
import json
import re
import shlex
import shutil
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.evaluation.reported import HARM, evaluate, make_harmful_run, make_reported_run

from newslora.cli.main import _parse
from newslora.config import RunConfig, load_config
from newslora.evaluation.report import write_report
from newslora.training.run_folder import RunFolder

EMPTY = {"meta", "link", "input", "br", "img", "rect", "line", "circle"}


class Reader(HTMLParser):
    """Elements with their attributes, text by element, and whether every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def words(self) -> str:
        return " ".join(" ".join(text for tag, text in self.texts if tag not in ("script", "style")).split())


@pytest.fixture
def run(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    return make_reported_run(small_run, tmp_path / "my-run")


def read(run: RunFolder) -> Reader:
    return Reader(run.report.read_text(encoding="utf-8"))


def words_of(command: str) -> list[str]:
    """Return a command's words as a shell reads them, which joins lines that end in a backslash."""
    return shlex.split(command.replace("\\\n", ""))


def test_it_tells_what_was_trained_and_how_far_to_trust_it(run: RunFolder) -> None:
    results, words = json.loads(run.evaluation_file.read_text()), read(run).words()
    low, high = results["interval_95"]["accuracy"]
    for part in (
        f"{results['accuracy']:.1%} accuracy on 160 articles of data/test.csv",
        f"95% interval {low:.1%} to {high:.1%}",
        "665,092 67% of the budget of 1,000,000, 2.8% of the model’s 23,378,308",
        "chose epoch 1: validation accuracy 75.0%",
        "1,200 rows read from news.csv as train table: text from title and body, label from topic",
        "300 (25%) needed repair",
        "42 training rows were filtered out",
        "near duplicate all but repeats an earlier row",
        "test in train 3",
        "typos mistyped 160 99 76.2% 70.0% to 82.0% −4.8 −8.0 to −1.0",
        "3 to 9 words 60 70.0% 69.0% 57.0% to 80.0%",
        "near duplicate 9 100.0%",
        "Trained with",
    ):
        assert part in words, part


def test_the_matrix_and_the_classes_are_those_of_the_evaluation(run: RunFolder) -> None:
    results, page = json.loads(run.evaluation_file.read_text()), read(run)
    tips = [cell["data-tip"] for cell in page.all("td") if "data-tip" in cell]
    counts = [int(str(tip).split(" ", 1)[0]) for tip in tips]
    assert counts == [count for row in results["confusion_matrix"] for count in row]
    assert tips[1].startswith(f"{counts[1]} articles labelled World were predicted Sports: ")
    for row in results["per_class"].values():
        assert f"{row['precision']:.1%} {row['recall']:.1%} {row['f1']:.1%} {row['support']}" in page.words()


def test_the_hardest_articles_come_with_their_texts(run: RunFolder) -> None:
    rows = [row for row in read(run).all("tr") if "data-loss" in row]
    losses = [float(str(row["data-loss"])) for row in rows]
    assert len(rows) == 160
    assert losses == sorted(losses, reverse=True)
    assert "Judge" in run.report.read_text() or "judge" in run.report.read_text()


def test_the_shown_command_repeats_the_settings(run: RunFolder) -> None:
    commands = [text for tag, text in read(run).texts if tag == "code" and text.startswith("newslora train")]
    options, settings = _parse(words_of(commands[0])[1:])
    assert options.output == "my-run-again"
    assert load_config(None, None, settings) == run.config()
    options, _ = _parse(words_of(commands[1])[1:])
    assert options.config == "my-run/config.yaml"


def test_settings_with_odd_values_are_repeated_too(run: RunFolder) -> None:
    odd = {
        "data": {"train": "it's $HOME & more.csv", "text": ["a b", "c"], "near_duplicates": False},
        "model": {"dropout": None},
        "lora": {"alpha": 0.1 + 0.2, "layers": "0,2-3"},
        "train": {"lr": 1e-5, "clip": None, "seed": 7},
    }
    RunConfig.from_dict(odd).save(run.config_file)
    write_report(run)
    [command, _] = [text for tag, text in read(run).texts if tag == "code" and text.startswith("newslora train")]
    _, settings = _parse(words_of(command)[1:])
    assert load_config(None, None, settings) == RunConfig.from_dict(odd)


def test_text_of_a_row_stays_text(small_run: RunFolder, tmp_path: Path) -> None:
    page = read(make_harmful_run(small_run, tmp_path / "my-run"))
    assert not page.all("img")
    assert [script.get("type") for script in page.all("script")] == ["application/json", None]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not [attributes for _, attributes in page.elements if "style" in attributes]
    assert HARM in page.words()
    charts = next(text for tag, text in page.texts if tag == "script")
    assert {chart["name"] for chart in json.loads(charts)} >= {"loss", "reliability"}


def test_the_page_allows_its_own_style_and_script_alone(run: RunFolder) -> None:
    page = read(run)
    [policy] = [str(meta["content"]) for meta in page.all("meta") if "http-equiv" in meta]
    source = run.report.read_text(encoding="utf-8")
    for tag in ("style", "script"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http:" not in policy + "".join(str(a.get("href")) for a in page.all("a"))
    assert not [value for _, attributes in page.elements for name, value in attributes.items() if name == "src"]


def test_the_librarys_licence_is_in_the_page(run: RunFolder) -> None:
    assert "Copyright (c) 2022 Leon Sorokin Permission is hereby granted" in read(run).words()


def test_links_lead_to_files_that_are_there(run: RunFolder) -> None:
    links = [str(link["href"]) for link in read(run).all("a") if not str(link["href"]).startswith("#")]
    assert {"evaluation.json", "predictions.csv", "figures/confusion_matrix.png"} <= set(links)
    assert all((run.path / link).is_file() for link in links)
    anchors = [str(link["href"])[1:] for link in read(run).all("a") if str(link["href"]).startswith("#")]
    assert set(anchors) <= {attributes.get("id") for _, attributes in read(run).elements}


def test_without_a_test_table(small_run: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(small_run.path, tmp_path / "my-run")))
    assert write_report(run) == run.report
    words = read(run).words()
    assert "newslora evaluate my-run --data FILE" in words
    assert "Confusion matrix" not in words
    assert "did not record" in words


def test_without_texts_there_is_no_table_of_articles(run: RunFolder) -> None:
    evaluate(run, texts=None)
    assert not [row for row in read(run).all("tr") if "data-loss" in row]
    assert "Confusion matrix" in read(run).words()


def test_another_folder_holds_its_own_report(run: RunFolder, tmp_path: Path) -> None:
    before = run.report.read_bytes()
    evaluate(run, tmp_path / "elsewhere", source="other.csv")
    assert run.report.read_bytes() == before
    page = Reader((tmp_path / "elsewhere" / "report.html").read_text())
    assert "accuracy on 160 articles of other.csv" in page.words()
    links = [str(link["href"]) for link in page.all("a") if not str(link["href"]).startswith("#")]
    assert all((tmp_path / "elsewhere" / link).is_file() for link in links)


@pytest.mark.parametrize("classes", [2, 30])
def test_few_and_many_classes(run: RunFolder, classes: int) -> None:
    evaluate(run, names=[f"topic {k}" for k in range(classes)])
    cells = [cell for cell in read(run).all("td") if "data-tip" in cell]
    assert len(cells) == classes**2
    # A matrix of many classes would be a wall of buttons to whoever walks by keyboard.
    assert bool([button for button in read(run).all("button") if "data-predicted" in button]) == (classes == 2)
