import csv
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.newsroom import FILLERS, articles

from newslora.config import RunConfig
from newslora.data.encoding import encode
from newslora.errors import NewsloraError
from newslora.evaluation.evaluate import evaluate_run
from newslora.evaluation.shift import LONG, add_typos, join_articles, window_logits
from newslora.model.classifier import load_model, predict_logits
from newslora.training.run_folder import RunFolder
from newslora.workflow import train

NAMES = ("World", "Sports", "Business", "Sci/Tech")
WORDS = ("troops talks", "match coach wins", "market shares rise", "probe comet chip")


@pytest.fixture
def run(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(small_run.path, tmp_path / "run")))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "test.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "title", "description"])
        for i in range(80):
            words = WORDS[(i + i // 9) % 4]
            writer.writerow(
                [NAMES[i % 4], f"{words} on the", f"(Reuters) a <b>{words}</b> {'the market ' * (i % 9)}in"]
            )
    return path


def by_name(results: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in results["shift"]["variants"]}


def test_every_variant_is_measured_with_its_interval(run: RunFolder, table: Path) -> None:
    variants = by_name(evaluate_run(run, str(table), shift=True))
    assert list(variants) == [
        *("plain", "raw", "no_agency", "lower_case", "typos", "titles_only", "windows"),
        *("long_truncated", "long_windows"),
    ]
    for row in variants.values():
        low, high = row["interval_95"]
        assert low <= row["accuracy"] <= high
        if "against" in row:
            low, high = row["difference_95"]
            assert low <= row["difference"] <= high
            assert row["difference"] == pytest.approx(row["accuracy"] - variants[row["against"]]["accuracy"])


def test_the_starting_point_is_the_evaluation_itself(run: RunFolder, table: Path) -> None:
    results = evaluate_run(run, str(table), shift=True)
    plain = by_name(results)["plain"]
    assert (plain["accuracy"], plain["n"]) == (results["accuracy"], results["n"])
    assert plain["interval_95"] == results["interval_95"]["accuracy"]
    assert {key: value for key, value in results.items() if key != "shift"} == evaluate_run(run, str(table))


def test_a_variant_is_what_a_table_of_such_texts_would_give(run: RunFolder, table: Path, tmp_path: Path) -> None:
    variants = by_name(evaluate_run(run, str(table), shift=True))
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    model = load_model(run.adapter)
    labels = np.array([NAMES.index(row["label"]) for row in rows])
    texts = {
        "raw": [f"{row['title']} {row['description']}" for row in rows],
        "titles_only": [row["title"] for row in rows],
    }
    for name, changed in texts.items():
        logits = predict_logits(model, encode(changed, model.tokenizer, model.max_length, cache=False))
        assert variants[name]["accuracy"] == (logits.argmax(axis=1) == labels).mean()
    assert variants["titles_only"]["changed"] == variants["raw"]["changed"] == 80
    assert "“title”" in variants["titles_only"]["about"]


def test_titles_that_tell_nothing_cost_what_the_texts_told(news_backbone: Path, tmp_path: Path) -> None:
    """On a run that has learned something: the difference has the right sign, size and interval."""
    draw = random.Random(0)
    for name, count, seed in (("train.csv", 320, 0), ("test.csv", 100, 1)):
        rows = [(topic, " ".join(draw.choices(FILLERS, k=6)), text) for topic, text in articles(count, seed)]
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([("label", "title", "description"), *rows])
    sections = {
        "data": {"train": str(tmp_path / "train.csv")},
        "model": {"backbone": str(news_backbone), "head": "full"},
        "lora": {"targets": "all-linear", "r": 4},
        "train": {"epochs": 3, "lr": 0.01, "batch_size": 8},
    }
    run = train(RunConfig.from_dict(sections), tmp_path / "run")
    variants = by_name(evaluate_run(run, str(tmp_path / "test.csv"), shift=True))
    plain, titles = variants["plain"], variants["titles_only"]
    assert plain["accuracy"] > 0.5 > titles["accuracy"]  # chance: 0.2
    assert titles["difference"] == pytest.approx(titles["accuracy"] - plain["accuracy"])
    low, high = titles["difference_95"]
    assert low < titles["difference"] < high < 0


def test_a_tokenizer_that_lowers_case_does_not_mind_it(run: RunFolder, table: Path) -> None:
    lower = by_name(evaluate_run(run, str(table), shift=True))["lower_case"]
    assert (lower["difference"], lower["difference_95"], lower["changed"]) == (0, [0, 0], 80)


def test_a_table_of_one_text_column_has_no_titles(run: RunFolder, tmp_path: Path) -> None:
    rows = "".join(f"{NAMES[i % 4]},the {WORDS[i % 4]} on the a\n" for i in range(16))
    (tmp_path / "one.csv").write_text(f"label,text\n{rows}")
    variants = by_name(evaluate_run(run, str(tmp_path / "one.csv"), shift=True))
    assert "titles_only" not in variants
    assert "long_windows" not in variants  # four articles a class make no long one
    assert variants["windows"]["changed"] == 0


def test_the_report_shows_it(run: RunFolder, table: Path) -> None:
    evaluate_run(run, str(table), shift=True)
    assert "titles only" in run.report.read_text()


def test_windows_of_a_short_text_are_its_plain_pass_and_of_a_long_one_the_mean(run: RunFolder) -> None:
    model = load_model(run.adapter)
    content = model.max_length - 2
    words = [f"{WORDS[i % 4]} the" for i in range(3 * content)]
    flat = " ".join(words).split()[: 2 * content]
    starts = range(0, content + 1, content // 2)
    pieces = [" ".join(flat[start : start + content]) for start in starts]
    logits = window_logits(model, ["the match", " ".join(flat)])
    expected = predict_logits(model, encode(["the match", *pieces], model.tokenizer, model.max_length, cache=False))
    assert np.allclose(logits[0], expected[0], atol=1e-5)
    assert np.allclose(logits[1], expected[1:].mean(axis=0), atol=1e-5)


def test_long_articles_are_of_one_class_and_use_an_article_once() -> None:
    rows = articles(100)
    names = sorted({topic for topic, _ in rows})
    texts, labels = join_articles([f"<{i}>" for i in range(100)], np.array([names.index(topic) for topic, _ in rows]))
    used = [int(part.strip("<>")) for text in texts for part in text.split()]
    assert len(used) == len(set(used)) == LONG * len(texts) == LONG * 10
    for text, label in zip(texts, labels, strict=True):
        assert {rows[int(part.strip("<>"))][0] for part in text.split()} == {names[label]}


def test_typos_hit_the_given_share_of_long_words_inside() -> None:
    text = " ".join(["harbour", "the", "2004", "captain", "seed"] * 2000)
    typed = add_typos(text, random.Random(0))
    pairs = list(zip(text.split(" "), typed.split(" "), strict=True))
    hit = [(old, new) for old, new in pairs if old != new]
    assert 0.07 < len(hit) / 6000 < 0.12  # doubling or swapping a double letter changes nothing now and then
    assert all(len(old) >= 4 and old.isalpha() for old, _ in hit)
    assert all((old[0], old[-1]) == (new[0], new[-1]) for old, new in hit)
    assert {len(new) - len(old) for old, new in hit} == {-1, 0, 1}
    assert typed == add_typos(text, random.Random(0)) != add_typos(text, random.Random(1))


def test_a_missing_table_is_the_users_fault(run: RunFolder) -> None:
    with pytest.raises(NewsloraError, match=r"none\.csv: no such file"):
        evaluate_run(run, "none.csv", shift=True)
