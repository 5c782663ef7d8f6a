"""One setting over several seeds, on a tiny backbone and invented articles."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.newsroom import articles, write_table

import newslora
from newslora.config import RunConfig, change
from newslora.data.prepare import Prepared
from newslora.errors import NewsloraError
from newslora.evaluation.scoring import score_run
from newslora.seeds import baseline_seeds, train_seeds
from newslora.training.progress import Started
from newslora.training.run_folder import RunFolder

SEEDS = (0, 1, 3)


@pytest.fixture(scope="module")
def config(news_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("tables")
    data = {
        "train": str(write_table(folder / "train.csv", articles(120))),
        "test": str(write_table(folder / "test.csv", articles(45, seed=1))),
        "validation_share": 0.2,
    }
    train = {"epochs": 2, "lr": 0.01, "batch_size": 8, "seeds": SEEDS}
    return RunConfig.from_dict({"data": data, "model": {"backbone": str(news_backbone)}, "train": train})


@pytest.fixture(scope="module")
def whole(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train_seeds(config, tmp_path_factory.mktemp("runs") / "whole")


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def weights(run: RunFolder, seed: int) -> bytes:
    return (run.seed(seed) / "adapter" / "adapter_model.safetensors").read_bytes()


def test_each_seed_has_a_run_of_its_own(whole: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    assert whole.config() == config
    assert len({weights(whole, seed) for seed in SEEDS}) == 3
    own = change(config, {"train.seed": 3, "train.seeds": None}, "test")
    assert RunFolder.open(whole.seed(3)).config() == own
    alone = newslora.train(own, tmp_path / "alone")
    assert weights(whole, 3) == (alone.adapter / "adapter_model.safetensors").read_bytes()


def test_the_record_is_mean_spread_and_interval(whole: RunFolder) -> None:
    record = read(whole.seeds_file)
    assert record["seeds"] == list(SEEDS)
    values = [read(whole.seed(seed) / "evaluation.json")["accuracy"] for seed in SEEDS]
    figures = record["test"]["accuracy"]
    assert figures["values"] == values
    assert figures["mean"] == pytest.approx(np.mean(values))
    assert figures["sd"] == pytest.approx(np.std(values, ddof=1))
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert figures["interval_95"] == pytest.approx(expected)
    rows = [RunFolder(whole.seed(seed)).metrics() for seed in SEEDS]
    best = [max(row["val_macro_f1"] for row in epochs) for epochs in rows]
    assert record["validation"]["macro_f1"]["values"] == best


def test_an_interrupted_training_goes_on(whole: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    """The finished seed is kept, the one under way goes on, the last is trained."""
    started = 0

    def report(event: object) -> None:
        nonlocal started
        started += isinstance(event, Started)
        if started == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_seeds(config, tmp_path / "run", report=report)
    first = (tmp_path / "run" / "seed-0" / "README.md").stat().st_mtime_ns
    assert not (tmp_path / "run" / "seeds.json").exists()
    run = train_seeds(config, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "seed-0" / "README.md").stat().st_mtime_ns == first
    assert [weights(run, seed) for seed in SEEDS] == [weights(whole, seed) for seed in SEEDS]
    assert read(run.seeds_file) == read(whole.seeds_file)


def test_seeds_may_be_added_and_other_settings_not(config: RunConfig, tmp_path: Path) -> None:
    quick = change(config, {"train.epochs": 1, "train.seeds": (0, 1)}, "test")
    train_seeds(quick, tmp_path / "run")
    more = train_seeds(change(quick, {"train.seeds": (0, 1, 2)}, "test"), tmp_path / "run", resume=True)
    assert read(more.seeds_file)["seeds"] == [0, 1, 2]
    assert more.config().train.seeds == (0, 1, 2)
    with pytest.raises(NewsloraError, match=r"seed-0: was trained with other settings"):
        train_seeds(change(quick, {"train.lr": 0.5}, "test"), tmp_path / "run", resume=True)


def test_what_fails_at_once_leaves_no_folder(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="no such file"):
        train_seeds(change(config, {"data.train": "none.csv"}, "test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_taken_folder_is_refused(config: RunConfig, whole: RunFolder) -> None:
    before = whole.seeds_file.read_bytes()
    with pytest.raises(NewsloraError, match="exists; choose another --output or add --resume"):
        train_seeds(config, whole.path)
    assert whole.seeds_file.read_bytes() == before


def test_the_single_functions_refuse_several_seeds(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match=r"train\.seeds"):
        newslora.train(config, tmp_path / "run")
    with pytest.raises(NewsloraError, match=r"train\.seeds"):
        newslora.baseline.train_baseline("svm", config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_seeds_is_no_single_run(whole: RunFolder, config: RunConfig) -> None:
    with pytest.raises(NewsloraError, match=r"holds a run for each of several seeds; give one of them, .*seed-0"):
        score_run(whole, str(config.data.test))


def test_baselines_over_seeds_start_over_what_was_interrupted(config: RunConfig, tmp_path: Path) -> None:
    seen = 0

    def report(event: object) -> None:
        nonlocal seen
        seen += isinstance(event, Prepared)
        if seen == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        baseline_seeds("svm", config, tmp_path / "svm", report=report)
    (tmp_path / "svm" / "seed-1").mkdir()  # as a killed process leaves it
    change(config, {"train.seed": 1, "train.seeds": None}, "test").save(tmp_path / "svm" / "seed-1" / "config.yaml")
    run = baseline_seeds("svm", config, tmp_path / "svm", resume=True)
    record = read(run.seeds_file)
    assert record["seeds"] == list(SEEDS)
    stored = [read(run.seed(seed) / "baseline" / "baseline.json")["validation"]["accuracy"] for seed in SEEDS]
    assert record["validation"]["accuracy"]["values"] == stored
