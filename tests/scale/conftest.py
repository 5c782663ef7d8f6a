"""One small Ray on this machine for all tests that need it."""

import os
from collections.abc import Iterator

import pytest

from newslora.scale.cluster import cluster


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray with two workers and a spare core; the workers find what the tests import."""
    os.environ.setdefault("PYTHONPATH", os.pathsep.join(["src", "."]))
    with cluster(2, spare=1):
        yield
