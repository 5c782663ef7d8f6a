import errno
import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from newslora.data import cache
from newslora.data.cache import Arrays, cache_folder, cached

KEY = "0" * 64


def arrays(articles: int = 3) -> Arrays:
    return {
        "ids": np.arange(4 * articles, dtype=np.int32),
        "offsets": np.arange(articles + 1, dtype=np.int64) * 4,
        "counts": np.full(articles, 9, dtype=np.int64),
    }


class Maker:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return arrays()


def stored() -> Path:
    (path,) = cache_folder().iterdir()
    return path


def check(maker: Maker, calls: int) -> None:
    found = cached(KEY, 3, maker)
    assert maker.calls == calls
    assert all(np.array_equal(found[name], array) for name, array in arrays().items())


def test_the_folder_is_the_users_unless_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("NEWSLORA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "newslora"


def test_what_is_stored_is_not_made_again() -> None:
    maker = Maker()
    check(maker, 1)
    check(maker, 1)


def test_without_a_key_nothing_is_stored() -> None:
    maker = Maker()
    for _ in range(2):
        cached(None, 3, maker)
    assert maker.calls == 2
    assert not cache_folder().exists()


def test_a_cut_or_flipped_file_is_made_anew() -> None:
    maker = Maker()
    check(maker, 1)
    whole = stored().read_bytes()
    damaged = [whole[:cut] for cut in range(0, len(whole), 7)]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 3)]
    for content in damaged:
        stored().write_bytes(content)
        calls = maker.calls
        found = cached(KEY, 3, maker)
        assert all(np.array_equal(found[name], array) for name, array in arrays().items())
        assert maker.calls == calls + 1 or stored().read_bytes() == content  # a flip that changes no value is harmless
    check(maker, maker.calls)


def test_a_file_under_another_name_is_not_believed() -> None:
    maker = Maker()
    check(maker, 1)
    stored().rename(stored().with_name(f"encoded-{'1' * 64}.safetensors"))
    cached("1" * 64, 3, maker)
    assert maker.calls == 2


def test_a_file_about_other_articles_is_not_believed() -> None:
    cached(KEY, 3, arrays)
    assert len(cached(KEY, 5, lambda: arrays(5))["counts"]) == 5


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error")])
def test_a_cache_that_cannot_be_written_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fill_the_disk(_: Arrays, path: Path, metadata: dict[str, str]) -> None:
        path.write_text(f"half of {metadata}")
        raise error

    monkeypatch.setattr(cache, "save_file", fill_the_disk)
    with caplog.at_level(logging.INFO):
        check(Maker(), 1)
    assert "encoded articles are not kept" in caplog.text
    assert not list(cache_folder().iterdir())
