from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from tests.newsroom import articles, make_tokenizer

from newslora.config import DataConfig, RunConfig
from newslora.data.prepare import prepare
from newslora.data.streaming import ArticleStream, Position, check_streaming, refuse_streaming
from newslora.errors import NewsloraError


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` waits five seconds for threads of remote readers whenever a stream is left before its end."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def write_folder(folder: Path, files: int = 13, rows: int = 20) -> Path:
    """Write files of unlike sizes, topics mixed."""
    folder.mkdir()
    told = articles(files * (rows + files), 1)
    for number in range(files):
        part = [told.pop() for _ in range(rows + number)]
        table = pa.table(
            {"label": [label for label, _ in part], "text": [text for _, text in part], "tags": [[1]] * len(part)}
        )
        pq.write_table(table, folder / f"part-{number:03}.parquet", row_group_size=8)
    return folder


def settings(folder: Path, **data: object) -> DataConfig:
    return DataConfig.model_validate({"train": str(folder), "streaming": True, "buffer": 64, "min_tokens": 0} | data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "news")


def texts_of(stream: ArticleStream, position: Position, windows: int) -> tuple[list[list[object]], list[Position]]:
    texts, positions = [], [position]
    for _ in range(windows):
        window = stream.window(position)
        texts.append(window.frame.columns["text"])
        position = window.following
        positions.append(position)
    return texts, positions


def test_every_row_comes_once_a_pass_and_each_pass_in_another_order(folder: Path) -> None:
    stream = ArticleStream(settings(folder), 0)
    texts, positions = texts_of(stream, Position(), 12)
    whole = sorted(text for file in folder.iterdir() for text in pq.read_table(file)["text"].to_pylist())
    first, second = (
        [t for w, p in zip(texts, positions[1:], strict=True) if p.turn == turn for t in w] for turn in (0, 1)
    )
    assert len(whole) == 338 and sorted(first) == sorted(second) == whole
    assert first != second
    files = {text: file.name for file in folder.iterdir() for text in pq.read_table(file)["text"].to_pylist()}
    assert len({files[text] for text in first[:64]}) > 8  # the files are mixed


def test_any_window_is_read_again_without_those_before_it(folder: Path) -> None:
    texts, positions = texts_of(ArticleStream(settings(folder), 0), Position(), 9)
    for start in (1, 3, 6, 7, 8):
        position = Position.model_validate_json(positions[start].model_dump_json())
        again, ends = texts_of(ArticleStream(settings(folder), 0), position, 9 - start)
        # The same place may be told in two ways; what is read from it is what counts.
        told = [end.model_dump(exclude={"at"}) for end in (ends[-1], positions[-1])]
        assert (again, told[0]) == (texts[start:], told[1])
    stream = ArticleStream(settings(folder), 0)
    assert [texts_of(stream, positions[start], 1)[0][0] for start in (4, 1, 7)] == [texts[4], texts[1], texts[7]]
    assert texts_of(ArticleStream(settings(folder), 1), Position(), 2)[0] != texts[:2]


def test_rows_are_told_by_their_number_in_the_pass(folder: Path) -> None:
    stream = ArticleStream(settings(folder, buffer=300), 0)
    window = stream.window(Position())
    assert (window.frame.places[0], window.frame.places[-1], list(window.frame.columns)) == (1, 300, ["label", "text"])
    rest = stream.window(window.following)
    assert (rest.frame.places[0], rest.frame.places[-1]) == (301, 338)


def test_declared_classes(tmp_path: Path) -> None:
    kinds = Features({"text": Value("string"), "label": ClassLabel(names=["Courts", "Farming"])})
    (tmp_path / "news").mkdir()
    Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=kinds).to_parquet(
        tmp_path / "news/a.parquet"
    )
    frame = ArticleStream(settings(tmp_path / "news"), 0).window(Position()).frame
    assert dict(zip(frame.columns["text"], frame.columns["label"], strict=True)) == {
        "a": "Farming",
        "b": "Courts",
        "c": None,
    }
    assert frame.classes == {"label": ("Courts", "Farming")}


def test_windows_are_filtered_and_keep_off_the_validation_rows(folder: Path) -> None:
    data = prepare(settings(folder, validation_share=0.2), make_tokenizer(), 0)
    assert data.stream is not None and data.report["streamed"] is True
    held, seen, position = set(data.validation.texts), set(data.train.texts), data.stream.second
    assert len(held) + len(seen) <= 64
    while position.turn < 2:
        split, position = data.stream.window(position)
        assert len(set(split.texts)) == len(split.texts) == len(split.labels) == len(split.encoded)
        assert not held & set(split.texts)
        seen |= set(split.texts)
    whole = {text for file in folder.iterdir() for text in pq.read_table(file)["text"].to_pylist()}
    assert seen | held == whole


def test_a_label_that_turns_up_late_is_told(folder: Path) -> None:
    names, text = ["Courts", "Farming", "Shipping", "Theatre", "Weather"], "the match was late on day"
    table = {"label": ["Sports"] * 40, "text": [f"{text} {row}" for row in range(40)], "tags": [[1]] * 40}
    pq.write_table(pa.table(table), folder / "part-999.parquet")
    first = {seed: ArticleStream(settings(folder, buffer=12), seed).window(Position()) for seed in range(9)}
    seed = next(seed for seed, window in first.items() if "Sports" not in window.frame.columns["label"])
    data = prepare(settings(folder, classes=names, buffer=12), make_tokenizer(), seed)
    assert data.stream is not None
    position = data.stream.second
    with pytest.raises(NewsloraError, match=r"news:\d+: unknown label 'Sports'; known labels: Courts"):
        while position.turn == 0:
            _, position = data.stream.window(position)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda folder: None, "no such file or folder|offline|cannot be"),
        (lambda folder: folder.mkdir(), "has no Parquet files"),
        (lambda folder: (folder.mkdir(), (folder / "a.parquet").write_bytes(b"PAR1 no PAR1")), "cannot be streamed"),
        (
            lambda folder: (
                folder.mkdir(),
                pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "a.parquet"),
            ),
            "cannot be streamed",
        ),
    ],
)
def test_what_cannot_be_streamed(tmp_path: Path, make: Callable[[Path], object], fault: str) -> None:
    make(tmp_path / "news")
    with pytest.raises(NewsloraError, match=fault) as raised:
        ArticleStream(settings(tmp_path / "news"), 0).window(Position())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        ({"data": {"streaming": True}}, "give train.steps"),
        ({"train": {"steps": 9}}, "train.steps: is for data.streaming"),
        ({"data": {"streaming": True}, "train": {"steps": 2}}, "fewer than train.epochs"),
        ({"data": {"streaming": True, "limit": 9}, "train": {"steps": 9}}, "data.limit"),
        ({"data": {"streaming": True}, "train": {"steps": 9}, "distill": {"teacher": "run"}}, "distill.teacher"),
        ({"data": {"streaming": True}, "train": {"steps": 9, "class_weights": "balanced"}}, "class_weights"),
    ],
)
def test_settings_that_do_not_go_together(tree: dict[str, object], fault: str) -> None:
    with pytest.raises(NewsloraError, match=fault):
        check_streaming(RunConfig.from_dict(tree))
    check_streaming(RunConfig.from_dict({"data": {"streaming": True}, "train": {"steps": 9}}))


def test_a_baseline_takes_no_stream() -> None:
    with pytest.raises(NewsloraError, match="a baseline takes a whole table"):
        refuse_streaming(DataConfig(streaming=True), "a baseline")
    refuse_streaming(DataConfig(), "a baseline")
