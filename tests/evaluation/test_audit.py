import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from tests.newsroom import articles, write_table

from newslora import NewsloraError
from newslora.cli.main import main
from newslora.config import DataConfig, RunConfig
from newslora.data.audit_file import read_flagged, write_audit
from newslora.data.sources import read_table
from newslora.evaluation.audit import FLAGGED, Audit, audit_alone, audit_with_run
from newslora.training.run_folder import RunFolder
from newslora.workflow import train

CONFUSED = {"World": "Business", "Sports": "World", "Business": "Sci/Tech", "Sci/Tech": "Business"}


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[int]]:
    """The packaged sample with 60 of its labels confused, and the lines of these."""
    table, draw = read_table("sample", DataConfig()), random.Random(4)
    assert table.labels is not None
    wrong = set(draw.sample(range(len(table.texts)), 60))
    labels = [CONFUSED[str(name)] if row in wrong else str(name) for row, name in enumerate(table.labels)]
    path = tmp_path_factory.mktemp("mislabelled") / "news.csv"
    write_table(path, list(zip(labels, table.texts, strict=True)))
    return path, {row + 2 for row in wrong}


@pytest.fixture(scope="module")
def audit(mislabelled: tuple[Path, set[int]]) -> Audit:
    return audit_alone(str(mislabelled[0]), DataConfig())


def precision(audit: Audit, wrong: set[int]) -> float:
    hits = [verdict.place in wrong for verdict in audit.verdicts]
    return float(average_precision_score(hits, -np.arange(len(hits))))


def test_confused_labels_of_the_sample_are_ranked_first(audit: Audit, mislabelled: tuple[Path, set[int]]) -> None:
    wrong = mislabelled[1]
    assert precision(audit, wrong) > 0.9
    flagged = {verdict.place for verdict in audit.verdicts if verdict.drop}
    assert len(flagged & wrong) > 0.8 * len(flagged) and len(flagged & wrong) > 0.6 * len(wrong)


def test_the_right_label_is_suggested_with_reasons(audit: Audit, mislabelled: tuple[Path, set[int]]) -> None:
    originals = read_table("sample", DataConfig()).labels
    assert originals is not None
    top = [verdict for verdict in audit.verdicts[:40] if verdict.place in mislabelled[1]]
    assert np.mean([verdict.suggested == originals[verdict.place - 2] for verdict in top]) > 0.9
    assert all(verdict.suggested != verdict.label and verdict.reasons for verdict in top)
    assert audit.verdicts[-1].suggested == audit.verdicts[-1].label and not audit.verdicts[-1].drop


def test_every_row_has_one_verdict_in_the_order_of_the_scores(audit: Audit, mislabelled: tuple[Path, set[int]]) -> None:
    table = read_table(str(mislabelled[0]), DataConfig())
    by_place = {verdict.place: verdict for verdict in audit.verdicts}
    assert sorted(by_place) == table.places
    assert [by_place[place].label for place in table.places] == table.labels
    scores = [verdict.score for verdict in audit.verdicts]
    assert scores == sorted(scores, reverse=True) and 0 <= min(scores) <= max(scores) <= 1
    assert [verdict.drop for verdict in audit.verdicts] == [score >= FLAGGED for score in scores]
    assert audit.summary["flagged"] == sum(score >= FLAGGED for score in scores)
    assert audit.summary["estimated_wrong"] == round(sum(scores)) and audit.summary["rows"] == len(scores)
    assert "minilm" in audit.summary["how"] and audit.summary["trained_on"] is None


def test_training_leaves_the_flagged_rows_out(audit: Audit, mislabelled: tuple[Path, set[int]], tmp_path: Path) -> None:
    write_audit(tmp_path / "audit.csv", audit.verdicts)
    table = read_table(str(mislabelled[0]), DataConfig())
    assert table.labels is not None
    flagged = read_flagged(str(tmp_path / "audit.csv"), table.places, [str(name) for name in table.labels], "news")
    assert [table.places[row] for row in flagged] == sorted(v.place for v in audit.verdicts if v.drop)


def test_near_duplicates_at_odds_are_listed_and_named(news_backbone: Path, tmp_path: Path) -> None:
    rows = articles(60)
    (topic, text), other = rows[7], rows[8][0]
    rows[30] = (other, f"{text[:-1]} today.")  # all but the same, under another label
    rows[40] = rows[41]  # the same under the same label: no conflict
    path = write_table(tmp_path / "news.csv", rows)
    found = audit_alone(str(path), DataConfig(), backbone=str(news_backbone))
    [group] = found.conflicts
    assert [(verdict.place, verdict.label) for verdict in group] == [(9, topic), (32, other)]
    assert f"near-duplicate with another label: line 32, {other}" in group[0].reasons
    assert f"near-duplicate with another label: line 9, {topic}" in group[1].reasons
    assert found.summary["conflicts"] == 1


def test_a_row_without_text_is_judged_and_said_to_be_empty(news_backbone: Path, tmp_path: Path) -> None:
    rows = articles(60)
    rows[12] = (rows[12][0], "<br>")
    found = audit_alone(str(write_table(tmp_path / "news.csv", rows)), DataConfig(), backbone=str(news_backbone))
    [verdict] = [verdict for verdict in found.verdicts if verdict.place == 14]
    assert "no text is left after the repair" in verdict.reasons and verdict.text == ""


def test_the_only_row_of_a_class_is_named(news_backbone: Path, tmp_path: Path) -> None:
    path = write_table(tmp_path / "news.csv", [*articles(30), ("Cooking", "A pot of soup on the fire.")])
    with pytest.raises(NewsloraError, match=r"news.csv:32: is the only row labelled 'Cooking'"):
        audit_alone(str(path), DataConfig(), backbone=str(news_backbone))


def test_an_unknown_method_and_a_missing_label_are_told(news_backbone: Path, tmp_path: Path) -> None:
    path = write_table(tmp_path / "news.csv", articles(30))
    with pytest.raises(NewsloraError, match="--method magic: unknown method; there are newslora, cleanlab"):
        audit_alone(str(path), DataConfig(), method="magic")
    with pytest.raises(NewsloraError, match=r"no such column"):
        audit_alone(str(path), DataConfig(label="colour"), backbone=str(news_backbone))


@pytest.fixture(scope="module")
def trusted(news_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run trained on rows that are right."""
    folder = tmp_path_factory.mktemp("trusted")
    table = write_table(folder / "train.csv", articles(500, seed=1))
    settings = {
        "data": {"train": str(table), "near_duplicates": False},
        "model": {"backbone": str(news_backbone), "head": "full"},
        "train": {"epochs": 10, "lr": 1e-2},
    }
    return train(RunConfig.from_dict(settings), folder / "run")


def test_a_run_that_learned_from_right_rows_finds_the_wrong_ones(trusted: RunFolder, tmp_path: Path) -> None:
    rows = articles(200, seed=2)
    names = sorted({topic for topic, _ in rows})
    wrong = set(random.Random(1).sample(range(200), 30))
    given = [(names[names.index(t) - 1] if row in wrong else t, text) for row, (t, text) in enumerate(rows)]
    path = write_table(tmp_path / "news.csv", given)
    found = audit_with_run(trusted, str(path), DataConfig())
    assert precision(found, {row + 2 for row in wrong}) > 0.8
    assert found.summary["trained_on"] == 0 and "run" in found.summary["how"]
    top = found.verdicts[0]
    assert top.drop and rows[top.place - 2][0] == top.suggested and "the model sees" in top.reasons[0]


def test_rows_that_the_run_learned_are_counted_while_its_table_is_there(trusted: RunFolder, tmp_path: Path) -> None:
    known = articles(500, seed=1)[:20]
    path = write_table(tmp_path / "news.csv", known + articles(40, seed=9))
    assert audit_with_run(trusted, str(path), DataConfig()).summary["trained_on"] == 20
    moved = Path(trusted.config().data.train).rename(tmp_path / "elsewhere.csv")
    try:
        assert audit_with_run(trusted, str(path), DataConfig()).summary["trained_on"] is None
    finally:
        moved.rename(trusted.config().data.train)


def test_a_label_that_the_run_does_not_know_is_refused(trusted: RunFolder, tmp_path: Path) -> None:
    path = write_table(tmp_path / "news.csv", [*articles(20), ("Cooking", "A pot of soup on the fire.")])
    with pytest.raises(NewsloraError, match=r"news.csv:22: unknown label 'Cooking'"):
        audit_with_run(trusted, str(path), DataConfig())


@pytest.mark.parametrize("method", ["newslora", "cleanlab"])
def test_the_command_writes_ranking_and_page(
    method: str, news_backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = write_table(tmp_path / "news.csv", articles(80)), tmp_path / "out" / "audit.csv"
    words = ["--backbone", str(news_backbone), "--method", method, "--output", str(output)]
    assert main(["audit", "--data", str(data), *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert told["rows"] == len(rows) == 80 and told["flagged"] == sum(row["drop"] == "yes" for row in rows)
    assert told["page"] == str(output.with_suffix(".html")) and Path(told["page"]).stat().st_size > 10_000
    assert method in told["how"] or method == "newslora"
    assert main(["audit", "--data", str(data), *words]) == 0
    out = capsys.readouterr().out
    assert f"{told['flagged']} of 80 rows flagged" in out and f"--data.drop {output}" in out


def test_the_command_judges_by_a_run(trusted: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_table(tmp_path / "news.csv", articles(500, seed=1)[:30])
    words = ["audit", str(trusted.path), "--data", str(data), "--output", str(tmp_path / "audit.csv")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "judged by the run run at temperature " in out
    assert "beware: 30 of these rows stand in the run's own training table" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "audit.txt"], "--output audit.txt: the ranking is a CSV file, with its page beside it"),
        (["--output", "audit.csv", "--method", "cleanlab", "run"], "--method cleanlab: works on the table alone"),
        (["--output", "audit.csv", "nowhere"], "nowhere: no such run folder"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "--data", "sample", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
