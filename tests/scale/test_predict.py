"""Tables classified on Ray are what the local engine makes of them."""

import csv
import random
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import WORDS

from newslora.cli.main import main
from newslora.errors import NewsloraError
from newslora.inference.bulk import BulkResult, predict_file
from newslora.inference.classifier import NewsClassifier
from newslora.scale.predict import predict_files
from newslora.training.run_folder import RunFolder

BLOCK = 16
# Ray sets settings that it has itself named old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`(use_|write_|target_|retried_).* (is|will be) deprecated:DeprecationWarning"
)


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    draw = random.Random(seed)
    rows = [{"id": i, "text": " ".join(draw.choices(WORDS, k=draw.randint(2, 9)))} for i in range(count)]
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *(row.values() for row in rows)])
    return path


def local(run: RunFolder, source: Path, output: Path) -> bytes:
    predict_file(NewsClassifier.load(run.path), str(source), str(output), block=BLOCK)
    return output.read_bytes()


@pytest.mark.slow
def test_a_folder_of_tables_at_an_address(tmp_path: Path, small_run: RunFolder, ray_here: None) -> None:
    for number, name in enumerate(("a.csv", "b.parquet", "empty.csv")):
        write_rows(tmp_path / "in" / name, 40 * (2 - number), number)
    result = predict_files(
        str(small_run.path), f"file://{tmp_path}/in", f"file://{tmp_path}/out", workers=1, block=BLOCK
    )
    assert result == BulkResult(120, 0)
    for name in ("a.csv", "b.parquet", "empty.csv"):
        assert (tmp_path / "out" / name).read_bytes() == local(small_run, tmp_path / "in" / name, tmp_path / name)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.csv", "b.parquet", "empty.csv"]


@pytest.mark.slow
def test_rows_at_fault(tmp_path: Path, small_run: RunFolder, ray_here: None) -> None:
    source, said = tmp_path / "in.jsonl", list[str]()
    lines = [f'{{"id": {i}, "text": "{"" if i in (30, 77) else "comet talks"}"}}\n' for i in range(90)]
    source.write_text("".join(lines).replace('{"id": 60', '{"id" 60'))
    with pytest.raises(NewsloraError, match=r"in\.jsonl:31: no text"):
        predict_files(str(small_run.path), str(source), str(tmp_path / "out.jsonl"), workers=1, block=BLOCK)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    output = tmp_path / "out.parquet"
    result = predict_files(
        str(small_run.path),
        f"file://{source}",
        str(output),
        workers=1,
        block=BLOCK,
        on_error="skip",
        skipped=said.append,
    )
    assert (result, pq.read_table(output)["id"].to_pylist()) == (
        BulkResult(87, 3),
        [i for i in range(90) if i not in (30, 60, 77)],
    )
    assert [line.split(" ")[0] for line in said] == [f"file://{source}:{line}:" for line in (31, 61, 78)]


@pytest.mark.slow
def test_killed_workers_lose_and_double_nothing(tmp_path: Path, small_run: RunFolder, ray_here: None) -> None:
    source, output, killed, done = write_rows(tmp_path / "in.csv", 4000), tmp_path / "out.csv", list[int](), list[int]()
    parts = tmp_path / ".out.csv.parts"

    def kill() -> None:
        for most in (3, 90):
            while not parts.exists() or len(list(parts.glob("part-*"))) < most:
                time.sleep(0.01)
            workers = [
                p for p in psutil.Process().children(recursive=True) if "ray::MapWorker" in " ".join(p.cmdline())
            ]
            workers[0].kill()
            killed.append(workers[0].pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    result = predict_files(str(small_run.path), str(source), str(output), block=BLOCK, progress=done.append)
    thread.join(1)
    assert (len(killed), result, sum(done)) == (2, BulkResult(4000, 0), 4000)
    assert output.read_bytes() == local(small_run, source, tmp_path / "local.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "local.csv", "out.csv"]


@pytest.mark.slow
def test_after_a_kill_of_all_only_the_rest_is_done(tmp_path: Path, small_run: RunFolder, ray_here: None) -> None:
    source, output, done = write_rows(tmp_path / "in.csv", 4000), tmp_path / "out.csv", list[int]()

    def stop(rows: int) -> None:
        done.append(rows)
        if len(done) == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(str(small_run.path), str(source), str(output), block=BLOCK, progress=stop)
    there = len(list((tmp_path / ".out.csv.parts").glob("part-*")))
    done.clear()
    assert predict_files(
        str(small_run.path), str(source), str(output), block=BLOCK, progress=done.append
    ) == BulkResult(4000, 0)
    assert there >= 40
    assert len(done) <= 4000 // BLOCK + 1 - 40
    assert output.read_bytes() == local(small_run, source, tmp_path / "local.csv")


def test_without_ray_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small_run: RunFolder, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = write_rows(tmp_path / "in.csv", 3)
    words = ["predict", str(small_run.path), "--input", str(source), "--output", str(tmp_path / "out.csv")]
    assert main([*words, "--engine", "ray"]) == 2
    assert capsys.readouterr().err == (
        "error: newslora predict --engine ray: Ray is not installed; pip install 'newslora[ray]'\n"
    )


def test_texts_are_not_for_ray(capsys: pytest.CaptureFixture[str], small_run: RunFolder) -> None:
    assert main(["predict", str(small_run.path), "comet", "--engine", "ray"]) == 2
    assert "give --input and --output" in capsys.readouterr().err
