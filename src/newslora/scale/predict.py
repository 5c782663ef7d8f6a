"""Tables classified on Ray Data: the local engine's blocks and parts, made by many workers."""

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from newslora.data.parts import Parts, open_parts
from newslora.errors import NewsloraError
from newslora.inference.answers import answer_names
from newslora.inference.bulk import BLOCK, BulkResult, identity
from newslora.inference.classifier import NewsClassifier
from newslora.scale.blocks import Answerer, Outcome, Work, cut
from newslora.scale.cluster import cluster, gpu_share
from newslora.scale.places import describe, find_tables, is_address, name_targets
from newslora.scale.remote import RemoteParts, open_remote_parts

_OPEN: Final = 256  # tables open at a time, each with a lock

_Opened = AbstractContextManager[Parts | RemoteParts]


@dataclass(frozen=True)
class _Options:
    text: tuple[str, ...] | None
    skip: bool
    block: int
    progress: Callable[[int], None]
    skipped: Callable[[str], None]
    note: Callable[[str], None]


def predict_files(
    run: str,
    source: str,
    output: str,
    *,
    text: Sequence[str] | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    workers: int | None = None,
    block: int = BLOCK,
    progress: Callable[[int], None] | None = None,
    skipped: Callable[[str], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> BulkResult:
    """Classify every row of one table or of several, on a Ray cluster or on this machine's cores.

    The answers are those of :func:`newslora.inference.bulk.predict_file`, in the same order and form. A block of rows
    is at a worker at a time; it writes its answers as a part, under a temporary name until it is whole, and a block
    that a lost worker had is answered by another. The parts become the output when all are there, each row once. Work
    that was killed as a whole goes on with the blocks that are not there yet.

    Args:
        run: Run folder or export, to be found under this name on every machine.
        source: A table, a folder of tables, or a pattern; paths on a disk that all machines share, or addresses such as
            ``s3://bucket/news.parquet`` that fsspec knows.
        output: The table to write; a folder of tables of the same names where the source names several.
        text: Columns that hold the text, as for the local engine.
        on_error: Whether a row that cannot be read ends the work or is left out.
        workers: Most workers at work, each on one core (and one GPU where the cluster has any); all cores when None.
        block: Rows answered at a time.
        progress: Called with the number of rows done since the last call.
        skipped: Called with the reason, which begins with ``file:line``, for each row left out.
        note: Called with a line on what was found of an earlier start, if anything.

    Returns:
        The numbers of rows written and left out, those of an earlier start included.

    Raises:
        NewsloraError: As the local engine's; the first in the order of rows.
    """
    says = (progress or _ignore, skipped or _ignore, note or _ignore)
    options = _Options(tuple(text) if text else None, on_error == "skip", block, *says)
    sources, several = find_tables(source)
    targets = name_targets(sources, several, output)
    classifier, total = NewsClassifier.load(run), BulkResult(0, 0)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it advises on how Ray Data starts its workers
    with cluster(workers, spare=1) as found:
        for start in range(0, len(sources), _OPEN):
            pairs = list(zip(sources, targets, strict=True))[start : start + _OPEN]
            done = _predict_group(run, classifier, pairs, options, found)
            total = BulkResult(total.written + done.written, total.skipped + done.skipped)
    return total


def _ignore(value: object) -> None:
    """Say nothing."""


def _predict_group(
    run: str, classifier: NewsClassifier, pairs: list[tuple[str, str]], options: _Options, workers: int
) -> BulkResult:
    with ExitStack() as stack:
        opened = [stack.enter_context(_open(classifier, *pair, options)) for pair in pairs]
        works = [
            _work(index, pair, parts, answer_names(classifier), options)
            for index, (pair, parts) in enumerate(zip(pairs, opened, strict=True))
        ]
        with closing(_outcomes(run, works, workers)) as outcomes:
            blocks = _follow(outcomes, options)
        for work, parts in zip(works, opened, strict=True):
            parts.gather(blocks[work.index])
        done = [part for parts in opened for part in parts.done]
    return BulkResult(sum(part.written for part in done), sum(part.skipped for part in done))


def _open(classifier: NewsClassifier, source: str, target: str, options: _Options) -> _Opened:
    settings = {"text": options.text, "on_error": "skip" if options.skip else "stop", "block": options.block}
    own = {"classifier": classifier.fingerprint, "version": version("newslora")}
    known = describe(source) | own if is_address(source) else identity(classifier, source)
    if is_address(target):
        return open_remote_parts(target, known | settings, options.note)
    return open_parts(Path(target), known | settings, options.note)


def _work(
    index: int, pair: tuple[str, str], parts: Parts | RemoteParts, names: tuple[str, ...], options: _Options
) -> Work:
    return Work(
        index, *pair, str(parts.folder), names, options.text, options.skip, options.block, frozenset(parts.numbers())
    )


def _outcomes(run: str, works: list[Work], workers: int) -> Generator[Outcome]:
    """Yield what becomes of the tables' blocks, in order."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.target_max_block_size = 1  # a block of rows is one of Ray's too, handed on as soon as it is read
    context.execution_options.preserve_order = True  # the first fault told is the first in the tables
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    pool = ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=2)
    items = ray.data.from_items([{"item": work} for work in works], override_num_blocks=len(works))
    # Half a core: with the answerers' needs the two steps would become one, and a table one worker's.
    blocks = items.map_batches(cut, batch_format="pandas", batch_size=1, num_cpus=0.5)
    answers = blocks.map_batches(
        Answerer,
        fn_constructor_args=(run,),
        batch_format="pandas",
        batch_size=1,
        compute=pool,
        num_cpus=1,
        num_gpus=gpu_share(workers) or None,
    )
    rows = iter(answers.iter_rows())
    try:
        for row in rows:
            yield row["item"]
    finally:
        rows.close()  # ends the workers: none may write a part once its folder is given up


def _follow(outcomes: Iterator[Outcome], options: _Options) -> dict[int, int]:
    """Tell of what comes, and return each table's number of blocks.

    Raises:
        NewsloraError: The fault that the first block at fault has.
    """
    blocks = {}
    for outcome in outcomes:
        if outcome.fault is not None:
            raise NewsloraError(outcome.fault) from (OSError() if outcome.kept else None)
        if outcome.end:
            blocks[outcome.index] = outcome.number
        for reason in outcome.skipped:
            options.skipped(reason)
        options.progress(outcome.written + len(outcome.skipped))
    return blocks
