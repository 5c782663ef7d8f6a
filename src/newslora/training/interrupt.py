"""Signals that ask training to stop: noted at once, obeyed when a checkpoint has been written."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn, Self


class Interrupt:
    """While entered, the first SIGTERM or Ctrl-C is only noted; a later one acts as it always did.

    Args:
        grace: Seconds after the first in which others are passed over: ``torchrun`` sends its processes another signal
            when a Ctrl-C has reached them already.

    Attributes:
        received: The signal noted, if any.
    """

    def __init__(self, grace: float = 0.0) -> None:
        self.received: int | None = None
        self._grace, self._since = grace, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread alone; what the starter chose to ignore (nohup) stays ignored.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def leave(self) -> NoReturn:
        """End as the signal asked: KeyboardInterrupt after Ctrl-C, else exit status 143 (128 + SIGTERM)."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since >= self._grace:
            self._restore()
            os.kill(os.getpid(), number)

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
