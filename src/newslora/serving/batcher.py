"""Texts of all requests in one queue, run in batches of so many tokens by one thread.

A batch is what waits when the thread becomes free: one text at once when little is asked, full batches under load.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter

from newslora.model.memory import trim_memory
from newslora.serving.engine import Answer, Served, answer
from newslora.serving.limits import Limits, estimate_tokens
from newslora.serving.refusal import RefusalError

_TRIM_BATCHES = 100  # after so many, freed memory is returned
_MOST_SECONDS = 60  # that a client is told to stay away


@dataclass(eq=False)
class _Job:
    """One request's texts."""

    served: Served
    texts: Sequence[str]
    future: asyncio.Future[list[Answer]]
    answers: dict[int, Answer] = field(default_factory=dict)

    def take(self, index: int, found: Answer) -> None:
        self.answers[index] = found
        if len(self.answers) == len(self.texts) and not self.future.done():
            self.future.set_result([self.answers[i] for i in range(len(self.texts))])


@dataclass(frozen=True)
class _Item:
    job: _Job
    index: int
    tokens: int


class Batcher:
    """The queue and its worker. All methods are for the event loop's thread.

    Args:
        executor: One thread, which runs the models.
        limits: Sizes of batch and queue.
        observe: Called after each batch with its texts and tokens (estimated).
    """

    def __init__(self, executor: Executor, limits: Limits, observe: Callable[[int, int], None]) -> None:
        self._executor, self._limits, self._observe = executor, limits, observe
        self._queue: deque[_Item] = deque()
        self._filled = asyncio.Event()
        self._rate = 1000.0  # tokens a second, of late
        self.tokens = 0
        """Tokens that wait or run."""

    async def classify(self, served: Served, texts: Sequence[str]) -> list[Answer]:
        """Return each text's probabilities, or what is wrong with it.

        Raises:
            RefusalError: 429, too much waits already; 503, the answer took too long.
        """
        sizes = [estimate_tokens(text, served.max_length) for text in texts]
        if self.tokens and self.tokens + sum(sizes) > self._limits.queue_tokens:
            wait = min(_MOST_SECONDS, math.ceil(self.tokens / self._rate))
            raise RefusalError(429, f"too many requests at once; try again in {wait} s", Retry_After=str(wait))
        job = _Job(served, texts, asyncio.get_running_loop().create_future())
        self._queue.extend(_Item(job, index, size) for index, size in enumerate(sizes))
        self.tokens += sum(sizes)
        self._filled.set()
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                return await job.future
        except TimeoutError:
            raise RefusalError(503, "the answer took too long; send fewer texts", Retry_After="10") from None

    async def work(self) -> None:
        """Run batches until cancelled."""
        loop, run = asyncio.get_running_loop(), 0
        while True:
            await self._filled.wait()
            if batch := self._next_batch():
                await self._run(batch)
                run += 1
                if run % _TRIM_BATCHES == 0:
                    await loop.run_in_executor(self._executor, trim_memory)
            else:
                self._filled.clear()

    def _next_batch(self) -> list[_Item]:
        batch: list[_Item] = []
        tokens = 0
        while self._queue and (not batch or tokens + self._queue[0].tokens <= self._limits.batch_tokens):
            item = self._queue.popleft()
            if item.job.future.done():  # it failed, or no one waits any more
                self.tokens -= item.tokens
                continue
            batch.append(item)
            tokens += item.tokens
        return batch

    async def _run(self, batch: list[_Item]) -> None:
        loop, started = asyncio.get_running_loop(), perf_counter()
        tokens = sum(item.tokens for item in batch)
        try:
            texts = [(item.job.served, item.job.texts[item.index]) for item in batch]
            answers = await loop.run_in_executor(self._executor, answer, texts)
            for item, found in zip(batch, answers, strict=True):
                item.job.take(item.index, found)
        except Exception as error:  # the fault of one batch; the next one may go well
            for job in {item.job for item in batch}:
                if not job.future.done():
                    job.future.set_exception(error)
        finally:
            self.tokens -= tokens
        self._rate += 0.2 * (tokens / (perf_counter() - started) - self._rate)
        self._observe(len(batch), tokens)
