from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.serving.stand import make_stand

from newslora.serving.app import create_app
from newslora.serving.library import Library


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sixteen runs over one backbone."""
    return make_stand(tmp_path_factory.mktemp("stand"))


@pytest.fixture(scope="session")
def library(runs: list[Path]) -> Library:
    """All sixteen, loaded once; tests that change a library make their own."""
    return Library(runs)


@pytest.fixture
def client(library: Library) -> Iterator[TestClient]:
    """A client of the application in this process."""
    with TestClient(create_app(library), raise_server_exceptions=False) as client:
        yield client
