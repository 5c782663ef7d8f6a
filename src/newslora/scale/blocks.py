"""What Ray's workers do to tables: one cuts a table into blocks of rows, others answer a block and write its part."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from newslora.data.parts import write_part
from newslora.data.stream import Row, kind_of, open_rows
from newslora.errors import NewsloraError
from newslora.inference.answers import TablePlan, plan_table
from newslora.inference.classifier import NewsClassifier
from newslora.model.memory import keep_memory
from newslora.scale.places import fetched, is_address, send


@dataclass(frozen=True)
class Work:
    """One table to classify.

    Attributes:
        index: Its place among the tables.
        source: Its path or address.
        target: The table to be.
        folder: Where the target's parts stand.
        names: Of the answers' columns.
        text: Columns that hold the text, if given.
        skip: Whether rows that cannot be read are left out.
        block: Rows a block.
        done: Places of the parts that are there already.
    """

    index: int
    source: str
    target: str
    folder: str
    names: tuple[str, ...]
    text: tuple[str, ...] | None
    skip: bool
    block: int
    done: frozenset[int]


@dataclass(frozen=True)
class Block:
    """Rows of a table on their way to a worker; after a table's last ones comes a block without a plan."""

    work: Work
    number: int
    plan: TablePlan | None = None
    rows: Sequence[Row] = ()
    fault: str | None = None
    kept: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a block.

    Attributes:
        index: The table's place.
        number: The block's place; of a table's end, the number of its blocks.
        end: Whether it is the table's end.
        written: Rows written.
        skipped: Why rows were left out.
        fault: Why the work cannot go on.
        kept: Whether the parts are of use when the fault is gone: the disk was at fault, not the input.
    """

    index: int
    number: int
    end: bool = False
    written: int = 0
    skipped: tuple[str, ...] = ()
    fault: str | None = None
    kept: bool = False


def cut(batch: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Read a table and yield its blocks, a frame of one cell each, all but those that are done; its end comes last."""
    work: Work = batch["item"].iloc[0]
    try:
        with fetched(work.source) as file:
            yield from map(_frame, _blocks(work, file))
    except NewsloraError as error:
        yield _frame(Block(work, 0, fault=str(error), kept=isinstance(error.__cause__, OSError)))


def _blocks(work: Work, file: str) -> Iterator[Block]:
    with _naming(file, work.source), open_rows(file) as stream:
        blocks = iter(lambda: list(islice(stream.rows, work.block)), [])
        first = next(blocks, [])
        plan = plan_table(stream, first, work.names, work.text, typed=kind_of(work.target) == "parquet")
        plan = replace(plan, source=work.source)
        number = 0
        for number, rows in enumerate(chain([first], blocks), start=1):
            if number - 1 not in work.done:
                yield Block(work, number - 1, plan, [_named(row, file, work.source) for row in rows])
        yield Block(work, number)


@contextmanager
def _naming(file: str, source: str) -> Iterator[None]:
    """Name the source, not its copy, in messages."""
    try:
        yield
    except NewsloraError as error:
        raise NewsloraError(str(error).replace(file, source)) from error.__cause__


def _named(row: Row, file: str, source: str) -> Row:
    return row if row.fault is None else replace(row, fault=row.fault.replace(file, source))


class Answerer:
    """A worker that reads a classifier once and answers blocks.

    Args:
        run: Run folder or export.
    """

    def __init__(self, run: str) -> None:
        keep_memory()
        self._classifier = NewsClassifier.load(run)

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        """Answer a block, write its part, and return what became of it."""
        block: Block = batch["item"].iloc[0]
        try:
            return _frame(self._answer(block))
        except NewsloraError as error:
            kept = isinstance(error.__cause__, OSError)
            return _frame(Outcome(block.work.index, block.number, fault=str(error), kept=kept))

    def _answer(self, block: Block) -> Outcome:
        work, plan = block.work, block.plan
        if plan is None:
            return Outcome(work.index, block.number, block.fault is None, fault=block.fault, kept=block.kept)
        skipped: list[str] = []
        answered = plan.answer(self._classifier, block.rows, skipped.append if work.skip else None)
        _write(work, block.number, answered, len(skipped), plan)
        return Outcome(work.index, block.number, written=len(answered), skipped=tuple(skipped))


def _write(work: Work, number: int, rows: Sequence[dict[str, Any]], skipped: int, plan: TablePlan) -> None:
    if not is_address(work.folder):
        write_part(Path(work.folder), Path(work.target), number, rows, skipped, plan.all_columns, plan.schema)
        return
    with TemporaryDirectory(prefix="newslora-") as folder:
        target = Path(PurePosixPath(work.target).name)
        part = write_part(Path(folder), target, number, rows, skipped, plan.all_columns, plan.schema)
        send(part.path, f"{work.folder}/{part.path.name}")


def _frame(item: object) -> pd.DataFrame:
    return pd.DataFrame({"item": pd.Series([item], dtype=object)})
