import csv
import gzip
import io
import json
import os
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from newslora.errors import NewsloraError
from newslora.inference.bulk import BulkResult, predict_file
from newslora.model.thresholds import Thresholds

WORDS = ("harbour", "striker", "quarterly", "telescope")
TEXTS = [f"The {WORDS[i % 4]} was on every page of the {i}th paper." for i in range(23)]


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the project catches it."""


class WordSpotter:
    """Knows a class by one word each, and remembers how many texts it got at a time."""

    names = ("World", "Sports", "Business", "Sci/Tech")
    thresholds: Thresholds | None = None

    def __init__(self, fingerprint: str = "spotter", stop: int = 99) -> None:
        self.fingerprint = fingerprint
        self.blocks: list[int] = []
        self._stop = stop

    def repair(self, text: object) -> str:
        if not isinstance(text, str) or not text.strip():
            raise NewsloraError("no text; give the article's words")
        return text.strip()

    def predict_repaired(self, texts: Sequence[str]) -> np.ndarray:
        if len(self.blocks) == self._stop:
            raise Killed
        self.blocks.append(len(texts))
        scores = np.array([[0.7 if word in text else 0.1 for word in WORDS] for text in texts])
        return scores.reshape(len(texts), 4)


@pytest.fixture
def spotter() -> WordSpotter:
    return WordSpotter()


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([i, text] for i, text in enumerate(TEXTS))])


def write_tsv(path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["id", "text"], *([i, text] for i, text in enumerate(TEXTS))])


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)))


def write_jsonl_gz(path: Path) -> None:
    rows = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS))
    path.write_bytes(gzip.compress(rows.encode()))


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), path, row_group_size=5)


WRITERS: dict[str, Callable[[Path], None]] = {
    "rows.csv": write_csv,
    "rows.tsv": write_tsv,
    "rows.jsonl": write_jsonl,
    "rows.jsonl.gz": write_jsonl_gz,
    "rows.parquet": write_parquet,
}


def read_back(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    if ".jsonl" in path.name:
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text), delimiter="\t" if ".tsv" in path.name else ","))


@pytest.mark.parametrize("target", ["out.csv", "out.csv.gz", "out.tsv", "out.jsonl", "out.jsonl.gz", "out.parquet"])
@pytest.mark.parametrize("source", WRITERS)
def test_every_kind_to_every_kind(tmp_path: Path, spotter: WordSpotter, source: str, target: str) -> None:
    WRITERS[source](tmp_path / source)
    done: list[int] = []
    result = predict_file(spotter, str(tmp_path / source), str(tmp_path / target), block=10, progress=done.append)
    assert result == BulkResult(written=23, skipped=0)
    rows = read_back(tmp_path / target)
    assert list(rows[0]) == ["id", "text", "label", "score", "p_World", "p_Sports", "p_Business", "p_Sci/Tech"]
    assert [int(str(row["id"])) for row in rows] == list(range(23))
    assert [row["text"] for row in rows] == TEXTS
    assert [row["label"] for row in rows] == [spotter.names[i % 4] for i in range(23)]
    assert [float(str(row["score"])) for row in rows] == [0.7] * 23
    assert [float(str(row["p_Sports"])) for row in rows] == [0.7 if i % 4 == 1 else 0.1 for i in range(23)]
    assert (spotter.blocks, done) == ([10, 10, 3], [10, 10, 3])


def test_official_layout_without_a_header(tmp_path: Path, spotter: WordSpotter) -> None:
    (tmp_path / "test.csv").write_text(
        '"2","Late striker","He scored \\again"\n"4","Look up","A telescope, they say"\n'
    )
    predict_file(spotter, str(tmp_path / "test.csv"), str(tmp_path / "out.jsonl"))
    rows = read_back(tmp_path / "out.jsonl")
    assert [(row["class"], row["title"], row["label"]) for row in rows] == [
        ("2", "Late striker", "Sports"),
        ("4", "Look up", "Sci/Tech"),
    ]


def test_columns_of_the_same_name_stay(tmp_path: Path, spotter: WordSpotter) -> None:
    (tmp_path / "in.csv").write_text("label,text,score\nX,the harbour,9\n")
    predict_file(spotter, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"))
    (row,) = read_back(tmp_path / "out.csv")
    assert (row["label"], row["score"], row["predicted_label"], row["predicted_score"]) == ("X", "9", "World", "0.7")


def test_short_headlines_beside_labels_are_the_text(tmp_path: Path, spotter: WordSpotter) -> None:
    lines = [f"{'AB'[i % 2]},{'striker' if i % 3 else 'harbour'} {i}" for i in range(30)]
    (tmp_path / "in.csv").write_text("\n".join(["rubric,line", *lines, ""]))
    predict_file(spotter, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"))
    assert [row["label"] for row in read_back(tmp_path / "out.csv")][:3] == ["World", "Sports", "Sports"]


def test_text_columns_may_be_given(tmp_path: Path, spotter: WordSpotter) -> None:
    (tmp_path / "in.csv").write_text("text,note,more\nthe harbour,the telescope,\n")
    predict_file(spotter, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), text=("note", "more"))
    assert read_back(tmp_path / "out.csv")[0]["label"] == "Sci/Tech"
    with pytest.raises(NewsloraError, match=r"in\.csv: --text 'body': no such column"):
        predict_file(spotter, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), text=("body",))


def test_parquet_types_stay(tmp_path: Path, spotter: WordSpotter) -> None:
    table = pa.table(
        {
            "when": pa.array([1, 2], pa.timestamp("ms")),
            "tags": pa.array([["a"], None], pa.list_(pa.string())),
            "text": ["the harbour", "the striker"],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    predict_file(spotter, str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), block=1)
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.select(["when", "tags", "text"]).equals(table)
    predict_file(spotter, str(tmp_path / "in.parquet"), str(tmp_path / "out.csv"))
    assert read_back(tmp_path / "out.csv")[0]["tags"] == '["a"]'


BROKEN = {
    "in.csv": ("id,text\n1,the harbour\n2\n3,\n4,the striker\n", ["in.csv:3: too few columns", "in.csv:4: no text"]),
    "in.jsonl": (
        '{"text": "the harbour"}\nnot json\n\n{"text": ["a"]}\n{"text": "the striker"}\n',
        ["in.jsonl:2: not readable as JSON", "in.jsonl:4: column 'text' holds ['a']"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rows_at_fault_stop_the_work(tmp_path: Path, spotter: WordSpotter, name: str) -> None:
    content, reasons = BROKEN[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(NewsloraError) as caught:
        predict_file(spotter, str(tmp_path / name), str(tmp_path / "out.csv"))
    assert reasons[0] in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", BROKEN)
def test_rows_at_fault_are_skipped_and_told(tmp_path: Path, spotter: WordSpotter, name: str) -> None:
    content, reasons = BROKEN[name]
    (tmp_path / name).write_text(content)
    told: list[str] = []
    result = predict_file(
        spotter, str(tmp_path / name), str(tmp_path / "out.csv"), on_error="skip", skipped=told.append
    )
    assert result == BulkResult(written=2, skipped=2)
    assert all(reason in line for reason, line in zip(reasons, told, strict=True))
    assert [row["label"] for row in read_back(tmp_path / "out.csv")] == ["World", "Sports"]


def test_a_failure_leaves_the_earlier_output(tmp_path: Path, spotter: WordSpotter) -> None:
    write_csv(tmp_path / "in.csv")
    (tmp_path / "out.csv").write_text("earlier")
    (tmp_path / "in.csv").write_text((tmp_path / "in.csv").read_text() + "24\n")
    with pytest.raises(NewsloraError, match=r"in\.csv:25"):
        predict_file(spotter, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), block=4)
    assert (tmp_path / "out.csv").read_text() == "earlier"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.csv", "out.csv"]


@pytest.mark.parametrize("kind", ["csv", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("stop", range(6))
def test_killed_work_goes_on_where_it_was(tmp_path: Path, kind: str, stop: int) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(TEXTS)))
    skipping = {"on_error": "skip", "block": 4}
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write('{"text": ""}\n' * 3)
    whole = predict_file(WordSpotter(), str(tmp_path / "in.jsonl"), str(tmp_path / f"whole.{kind}"), **skipping)
    with pytest.raises(Killed):
        predict_file(WordSpotter(stop=stop), str(tmp_path / "in.jsonl"), str(tmp_path / f"out.{kind}"), **skipping)
    rest, done = WordSpotter(), list[int]()
    again = predict_file(
        rest, str(tmp_path / "in.jsonl"), str(tmp_path / f"out.{kind}"), progress=done.append, **skipping
    )
    assert again == whole == BulkResult(written=23, skipped=3)
    assert (sum(rest.blocks), sum(done)) == (23 - 4 * stop, 26)
    assert (tmp_path / f"out.{kind}").read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()


@pytest.mark.parametrize("change", ["input", "time", "classifier", "columns", "block"])
def test_other_work_starts_anew(tmp_path: Path, change: str) -> None:
    source, target = tmp_path / "in.csv", str(tmp_path / "out.csv")
    write_csv(source)
    with pytest.raises(Killed):
        predict_file(WordSpotter(stop=3), str(source), target, block=4)
    if change == "input":
        source.write_text(source.read_text() + "23,the harbour\n")
    if change == "time":
        os.utime(source, ns=(1, 1))
    other, told = WordSpotter("another" if change == "classifier" else "spotter"), list[str]()
    text = ("id",) if change == "columns" else None
    predict_file(other, str(source), target, text=text, block=5 if change == "block" else 4, note=told.append)
    assert sum(other.blocks) == (24 if change == "input" else 23)
    assert told[0].endswith("made from another input, model or setting; starting anew")


def test_an_interruption_keeps_what_is_done(tmp_path: Path, spotter: WordSpotter) -> None:
    class Interrupted(WordSpotter):
        def predict_repaired(self, texts: Sequence[str]) -> np.ndarray:
            if len(self.blocks) == 2:
                raise KeyboardInterrupt
            return super().predict_repaired(texts)

    write_csv(tmp_path / "in.csv")
    with pytest.raises(KeyboardInterrupt):
        predict_file(Interrupted(), str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), block=10)
    predict_file(spotter, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), block=10)
    assert spotter.blocks == [3]


def test_standard_input_is_never_taken_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(classifier: WordSpotter) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the harbour\nthe striker\n")))
        predict_file(classifier, "-", str(tmp_path / "out.jsonl"), block=1)

    with pytest.raises(Killed):
        start(WordSpotter(stop=1))
    second = WordSpotter()
    start(second)
    assert second.blocks == [1, 1]
    assert [row["label"] for row in read_back(tmp_path / "out.jsonl")] == ["World", "Sports"]


def test_a_late_column_of_an_added_name_is_not_overwritten(tmp_path: Path, spotter: WordSpotter) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "the harbour"}\n{"text": "the striker", "score": 3}\n')
    with pytest.raises(NewsloraError, match=r"in\.jsonl:2: has column 'score'"):
        predict_file(spotter, str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), block=1)


def test_memory_does_not_grow_with_the_file(tmp_path: Path, spotter: WordSpotter) -> None:
    peaks = []
    for rows in (2_000, 8_000):
        line = json.dumps({"text": "the harbour " * 20}) + "\n"
        (tmp_path / "in.jsonl").write_text(line * rows)
        tracemalloc.start()
        predict_file(spotter, str(tmp_path / "in.jsonl"), str(tmp_path / "out.csv"), block=500)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_nothing_in_nothing_out(tmp_path: Path, spotter: WordSpotter) -> None:
    (tmp_path / "in.csv").write_text("id,text\n")
    assert predict_file(spotter, str(tmp_path / "in.csv"), str(tmp_path / "out.csv")) == BulkResult(0, 0)
    assert (tmp_path / "out.csv").read_text() == "id,text,label,score,p_World,p_Sports,p_Business,p_Sci/Tech\n"


@pytest.mark.parametrize(
    "lines", ["the harbour\n\nthe striker\n", '{"text": "the harbour"}\n{"text": "the striker"}\n']
)
def test_from_standard_input_to_standard_output(
    spotter: WordSpotter, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], lines: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    predict_file(spotter, "-", "-")
    sys.stdout.flush()
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [("the harbour", "World"), ("the striker", "Sports")]


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("none.csv", "out.csv", "none.csv: no such file"),
        ("in.xlsx", "out.csv", "in.xlsx: unknown kind of table"),
        ("in.csv", "out.txt", "out.txt: unknown kind of table"),
        ("in.csv", "out.parquet.gz", "leave off .gz"),
    ],
)
def test_names_that_say_nothing(tmp_path: Path, spotter: WordSpotter, source: str, target: str, reason: str) -> None:
    write_csv(tmp_path / "in.csv")
    with pytest.raises(NewsloraError, match=reason):
        predict_file(spotter, str(tmp_path / source), str(tmp_path / target))
