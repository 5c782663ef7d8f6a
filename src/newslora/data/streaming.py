"""Training rows read while training: Parquet folders and hub data sets larger than memory or disk, by windows.

``datasets`` streams the rows: its shards (files) in an order drawn anew for each pass, ten of them interleaved. A
window of ``data.buffer`` rows is read, repaired, filtered and cut into tokens, and its batches are drawn from all of
it. Where a window begins is told by ``datasets``' own state of the stream, so any window can be read again without
those before it.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict

from newslora.config import DataConfig, RunConfig
from newslora.data.frame import Frame, decode_classes, reason
from newslora.data.hub import is_flat, open_hub
from newslora.errors import NewsloraError

if TYPE_CHECKING:
    from datasets import IterableDataset

_ALONE: Final = {
    "data.limit": "train.steps bounds the rows",
    "data.drop": "an audit ranks a whole table",
    "distill.teacher": "a teacher answers a whole table",
    "distill.unlabelled": "a teacher answers a whole table",
}


class Position(BaseModel):
    """Where a stream's reading stands, between windows or within one.

    Attributes:
        turn: Passes over the stream that are over.
        window: Windows that are over, of all passes.
        done: Steps taken of the window under way.
        row: Rows of this pass before the window.
        at: The state of ``datasets``' stream before the window; None at a pass's start.
    """

    model_config = ConfigDict(extra="forbid")

    turn: int = 0
    window: int = 0
    done: int = 0
    row: int = 0
    at: dict[str, Any] | None = None


@dataclass(frozen=True)
class Window:
    """Rows that are trained on together.

    Attributes:
        frame: The rows.
        following: Where the next window begins.
    """

    frame: Frame
    following: Position


def check_streaming(config: RunConfig) -> None:
    """Refuse settings that do not go together.

    Raises:
        NewsloraError: Names one that must be left out, or that is missing.
    """
    if not config.data.streaming:
        if config.train.steps is not None:
            raise NewsloraError("train.steps: is for data.streaming; without it give train.epochs")
        return
    if config.train.steps is None:
        raise NewsloraError("data.streaming: a stream's length is not known; give train.steps")
    if config.train.steps < config.train.epochs:
        raise NewsloraError("train.steps: there are fewer than train.epochs; lower train.epochs")
    for name, why in _ALONE.items():
        section, _, key = name.partition(".")
        if getattr(getattr(config, section), key) is not None:
            raise NewsloraError(f"{name}: does not go with data.streaming ({why})")
    if config.data.multi_label:
        raise NewsloraError("data.multi_label: does not go with data.streaming (kinds of articles are counted first)")
    if config.train.class_weights != "none":
        raise NewsloraError("train.class_weights: does not go with data.streaming (the classes' shares are not known)")


def refuse_streaming(config: DataConfig, what: str) -> None:
    """Refuse to take a stream for a table.

    Raises:
        NewsloraError: The settings say to stream.
    """
    if config.streaming:
        raise NewsloraError(f"data.streaming: {what} takes a whole table; leave it out, and give fewer rows")


class ArticleStream:
    """The rows of a Parquet folder or a hub data set.

    Args:
        config: Names it, and gives the rows a window.
        seed: Of the order of its files.
    """

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed, self.source = config, seed, config.train
        self._dataset: IterableDataset | None = None
        self._rows: Iterator[dict[str, object]] = iter(())
        self._stands: Position | None = None

    def window(self, position: Position) -> Window:
        """Read the window that begins at a position; one after the other this reads on.

        Raises:
            NewsloraError: The rows cannot be read, or there are none.
        """
        with _telling(self.source):
            rows = self._take(position)
            if not rows and position.row:
                position = Position(turn=position.turn + 1, window=position.window)
                rows = self._take(position)
            if not rows:
                raise NewsloraError(f"{self.source}: holds no rows; give a table with one article a row")
            moved = {"window": position.window + 1, "done": 0, "row": position.row + len(rows)}
            self._stands = position.model_copy(update=moved | {"at": self._state()})
        return Window(self._frame(rows, position.row), self._stands)

    def _take(self, position: Position) -> list[dict[str, object]]:
        if self._stands is None or (self._stands.turn, self._stands.at) != (position.turn, position.at):
            self._begin(position)
        return list(islice(self._rows, self.config.buffer))

    def _begin(self, position: Position) -> None:
        # A buffer of one row: datasets mixes the files, and a window's batches mix the rows. Rows that wait in a larger
        # one would be lost to a state of the stream.
        self._dataset = _open(self.config).shuffle(seed=self.seed, buffer_size=1)
        self._dataset.set_epoch(position.turn)
        if position.at is not None:
            # It warns that a buffer's rows are lost; of one row none is.
            logging.getLogger("datasets.iterable_dataset").setLevel(logging.ERROR)
            self._dataset.load_state_dict(position.at)
        self._rows = iter(self._dataset)

    def _state(self) -> dict[str, Any]:
        assert self._dataset is not None  # noqa: S101 - a window was read
        # A copy: datasets goes on with its own.
        state: dict[str, Any] = json.loads(json.dumps(self._dataset.state_dict()))
        return state

    def _frame(self, rows: list[dict[str, object]], before: int) -> Frame:
        kinds = (self._dataset.features if self._dataset else None) or {}
        names = [name for name in rows[0] if name not in kinds or is_flat(kinds[name])]
        classes = {name: tuple(kinds[name].names) for name in names if hasattr(kinds.get(name), "names")}
        columns: dict[str, list[object]] = {name: [row.get(name) for row in rows] for name in names}
        columns.update({name: decode_classes(columns[name], known) for name, known in classes.items()})
        return Frame(self.source, columns, list(range(before + 1, before + len(rows) + 1)), classes).check()


@contextmanager
def _telling(source: str) -> Iterator[None]:
    try:
        yield
    except NewsloraError:
        raise
    except Exception as error:  # the hub, the network, the disk and every reader raise their own kinds
        raise NewsloraError(f"{source}: cannot be streamed ({reason(error)})") from error


def _open(config: DataConfig) -> "IterableDataset":
    import datasets  # takes a second, and only streams need it

    folder = Path(config.train)
    if not folder.exists():
        return open_hub(config.train, config, config.train_split)
    files = sorted(map(str, folder.rglob("*.parquet"))) if folder.is_dir() else [config.train]
    if not files or Path(files[0]).suffix != ".parquet":
        raise NewsloraError(f"{config.train}: has no Parquet files; data.streaming reads a folder of them, or the hub")
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
