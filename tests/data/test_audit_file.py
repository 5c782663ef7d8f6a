from pathlib import Path

import pytest

from newslora import NewsloraError
from newslora.data.audit_file import COLUMNS, Verdict, read_flagged, write_audit
from newslora.data.delimited import read_delimited

PLACES, LABELS = [2, 3, 4], ["Sports", "World", "Sports"]
VERDICTS = [
    Verdict(4, "Sports", "World", 0.91, True, ("the model sees World", "no text"), 'Envoys said "no", then\tleft.'),
    Verdict(2, "Sports", "Sports", 0.25, False, (), "Striker scores twice"),
    Verdict(3, "World", "Sports", 1e-9, False, (), "=1+1, or so"),
]


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    write_audit(tmp_path / "audit.csv", VERDICTS)
    return tmp_path / "audit.csv"


def edited(audit: Path, before: str, after: str) -> str:
    text = audit.read_text()
    assert before in text
    audit.write_text(text.replace(before, after, 1))
    return str(audit)


def test_rows_stand_in_rank_with_all_that_was_found(audit: Path) -> None:
    columns = read_delimited(audit).columns
    assert tuple(columns) == COLUMNS
    assert columns["rank"] == ["1", "2", "3"] and columns["place"] == ["4", "2", "3"]
    assert columns["reasons"][0] == "the model sees World; no text" and columns["text"][0] == VERDICTS[0].text
    assert [float(str(score)) for score in columns["score"]] == pytest.approx([0.91, 0.25, 0.0], abs=1e-6)


def test_flagged_rows_are_found_by_their_place(audit: Path) -> None:
    assert read_flagged(str(audit), PLACES, LABELS, "news.csv").tolist() == [2]
    other = edited(audit, "0.000000,no", "0.000000,yes")
    assert read_flagged(other, PLACES, LABELS, "news.csv").tolist() == [1, 2]
    assert read_flagged(other, [9, 4, 3, 2], ["World", "Sports", "World", "Sports"], "news.csv").tolist() == [1, 2]


def test_nothing_flagged_is_nothing_dropped(tmp_path: Path) -> None:
    write_audit(tmp_path / "audit.csv", VERDICTS[1:])
    assert read_flagged(str(tmp_path / "audit.csv"), PLACES, LABELS, "news.csv").tolist() == []


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("2,2,Sports", "2,2,World", r"audit.csv:3: row 2 of news.csv, which has the label 'Sports', is labelled 'World' here"),
        ("2,2,Sports", "2,99,Sports", r"audit.csv:3: row 99 of news.csv, which is missing, .* give the audit of that very"),
        ("2,2,Sports", "2,two,Sports", r"audit.csv:3: row two of news.csv, which is missing"),
        ("0.250000,no", "0.250000,maybe", r"audit.csv:3: column 'drop' holds 'maybe'; give yes or no"),
        ("score,drop", "score,gone", r"audit.csv: has no column 'drop'; give the CSV that newslora audit wrote"),
    ],
)  # fmt: skip
def test_the_audit_of_another_file_or_none_at_all_is_refused(
    audit: Path, before: str, after: str, message: str
) -> None:
    with pytest.raises(NewsloraError, match=message):
        read_flagged(edited(audit, before, after), PLACES, LABELS, "news.csv")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match=r"none.csv: no such file; give the CSV that newslora audit wrote"):
        read_flagged(str(tmp_path / "none.csv"), PLACES, LABELS, "news.csv")
