"""Commands run in this process, their output caught, on a tiny backbone and invented articles."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.newsroom import articles, write_table

from newslora.cli.main import main
from newslora.config import RunConfig
from newslora.training.run_folder import RunFolder
from newslora.workflow import train


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``newslora`` with the given words."""

    def run(*words: object) -> Done:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Done(status, *capsys.readouterr())

    return run


@dataclass(frozen=True)
class Desk:
    """What a command that trains is given."""

    train: Path
    test: Path
    backbone: Path
    run: Path

    def words(self, **changed: object) -> list[object]:
        """Return the words of a ``train`` command; ``lora_r=4`` is ``--lora.r 4``."""
        settings = {"data.train": self.train, "data.test": self.test, "model.backbone": self.backbone}
        settings |= {"train.epochs": 2} | {name.replace("_", ".", 1): value for name, value in changed.items()}
        pairs = [word for name, value in settings.items() if value is not None for word in (f"--{name}", value)]
        return ["train", "--output", self.run, *pairs]


@pytest.fixture
def desk(tmp_path: Path, news_backbone: Path) -> Desk:
    """A training table, a test table, a backbone, and a free name for the run."""
    train = write_table(tmp_path / "train.csv", articles(120))
    test = write_table(tmp_path / "test.csv", articles(30, seed=1))
    return Desk(train, test, news_backbone, tmp_path / "run")


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory, news_backbone: Path) -> RunFolder:
    folder = tmp_path_factory.mktemp("trained")
    data = {"train": str(write_table(folder / "train.csv", articles(120)))}
    data["test"] = str(write_table(folder / "test.csv", articles(30, seed=1)))
    sections = {"data": data, "model": {"backbone": str(news_backbone)}, "train": {"epochs": 2}}
    return train(RunConfig.from_dict(sections), folder / "run")


@pytest.fixture
def trained(_trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A finished run, the test's own copy."""
    return RunFolder(Path(shutil.copytree(_trained.path, tmp_path / "trained")))
