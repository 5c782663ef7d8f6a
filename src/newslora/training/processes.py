"""Processes that train together: one speaks for all, a fault of one ends all, and a lost one is told of.

They are started by ``torchrun``, ``accelerate launch`` or Ray. In a run of one process everything here is a plain call.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object, parse_flag_from_env
from torch import nn

from newslora.errors import Lost, NewsloraError

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it counts them as lost."""
T = TypeVar("T")


def start_processes() -> PartialState:
    """Join the other processes of the run, if there are any.

    Raises:
        NewsloraError: There are others, but this device has no way to talk to them.
    """
    # Left to itself, accelerate joins processes on a CPU only when its own launcher started them.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    first = not torch.distributed.is_initialized()
    state = PartialState(cpu=cpu, timeout=TIMEOUT)
    if first and torch.distributed.is_initialized():
        atexit.register(_close)  # its threads would end the interpreter by abort()
    if state.num_processes == 1 < int(os.environ.get("WORLD_SIZE", "1")):
        raise NewsloraError(
            f"processes cannot train together on {state.device}; set ACCELERATE_USE_CPU=1, or start one"
        )
    return state


def from_main(make: Callable[[], T]) -> T:
    """Return to every process what ``make`` gives in the main one, which alone calls it.

    Raises:
        NewsloraError: Raised in the main process, and so in all; or the main process was lost.
    """
    state = start_processes()
    if state.num_processes == 1:
        return make()
    outcome: list[Any] = list(_attempt(make)) if state.is_main_process else [None, None]
    with talking():
        broadcast_object_list(outcome)
    value, fault = outcome
    if fault is not None:
        raise NewsloraError(fault)
    result: T = value
    return result


def agreed(make: Callable[[], T]) -> T:
    """Return what ``make`` gives in each process, once it has succeeded in all.

    Raises:
        NewsloraError: The first process's that failed, in all; or a process was lost.
    """
    if start_processes().num_processes == 1:
        return make()
    value, fault = _attempt(make)
    with talking():
        faults = gather_object([fault])
    for each in faults:
        if each is not None:
            raise NewsloraError(each)
    return value  # type: ignore[return-value]  # there was no fault


def share_weights(parameters: Sequence[nn.Parameter]) -> None:
    """Set every process's parameters to the main one's: machines of different kinds may round a start differently."""
    if start_processes().num_processes == 1:
        return
    with torch.no_grad(), talking():
        flat = broadcast(torch.cat([parameter.flatten() for parameter in parameters]))
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))


def part() -> None:
    """Part from the others; the main process goes last, so that what it said last has reached them.

    Raises:
        Lost: A process was lost.
    """
    state = start_processes()
    note = torch.zeros(1, device=state.device)
    with talking():
        if state.is_main_process:
            for rank in range(1, state.num_processes):
                torch.distributed.recv(note, rank)
        else:
            torch.distributed.send(note, 0)


@contextmanager
def talking() -> Iterator[None]:
    """Hold a talk between processes; one that is lost meanwhile is told of in one line.

    Raises:
        Lost: The connection broke, or nothing came for :data:`TIMEOUT`.
    """
    try:
        yield
    except RuntimeError as error:
        if start_processes().num_processes == 1 or isinstance(error, torch.OutOfMemoryError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise Lost(
            f"another process of this run was lost ({reason}); look at its last words, then train on with --resume"
        ) from error


def _close() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _attempt(make: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return make(), None
    except NewsloraError as error:
        return None, str(error)
