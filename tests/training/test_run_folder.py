from pathlib import Path

import pytest

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.training.run_folder import RunFolder


def test_create_writes_the_settings_and_open_reads_them_back(tmp_path: Path) -> None:
    config = RunConfig.from_dict({"lora": {"r": 4}, "data": {"text": ["title", "body"]}})
    RunFolder.create(tmp_path / "deep" / "run", config)
    assert RunFolder.open(tmp_path / "deep" / "run").config() == config


def test_create_takes_an_empty_folder_and_refuses_a_filled_one(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, RunConfig())
    with pytest.raises(NewsloraError, match=r"exists; choose another --output or add --resume$"):
        RunFolder.create(tmp_path, RunConfig())


def test_create_refuses_a_file_and_a_place_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NewsloraError, match="exists and is a file"):
        RunFolder.create(tmp_path / "file", RunConfig())
    with pytest.raises(NewsloraError, match="cannot be made"):
        RunFolder.create(tmp_path / "file" / "run", RunConfig())
    assert (tmp_path / "file").read_text() == "kept"


def test_open_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="no such run folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(NewsloraError, match=r"config\.yaml is missing"):
        RunFolder.open(tmp_path)


def test_names_are_those_of_the_contract(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    places = (run.adapter, run.config_file, run.metrics_file, run.steps_file, run.evaluation_file, run.figures)
    assert [p.name for p in (*places, run.checkpoints, run.report, run.card)] == [
        "adapter", "config.yaml", "metrics.jsonl", "steps.jsonl", "evaluation.json", "figures",
        "checkpoints", "report.html", "README.md",
    ]  # fmt: skip
    assert all(p.parent == tmp_path for p in places)


def test_metrics_leaves_out_a_line_still_being_written(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.metrics() == []
    run.metrics_file.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}]


@pytest.mark.parametrize("line", ["{broken", "[1]", "[" * 100_000])
def test_metrics_names_a_bad_line(tmp_path: Path, line: str) -> None:
    run = RunFolder(tmp_path)
    run.metrics_file.write_text(f'{{"epoch": 1}}\n{line}\n')
    with pytest.raises(NewsloraError, match=r"metrics\.jsonl:2: "):
        run.metrics()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    error = pytest.raises(NewsloraError, match="another process is training here")
    with RunFolder(tmp_path).lock(), error, RunFolder(tmp_path).lock():
        pass
    with RunFolder(tmp_path).lock():
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="cannot be written"), RunFolder(tmp_path / "gone").lock():
        pass
