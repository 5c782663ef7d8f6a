"""Signals that ask training to stop: noted at once, obeyed when a checkpoint has been written."""

import signal
import threading
from types import FrameType
from typing import Any, NoReturn, Self


class Interrupt:
    """While entered, the first SIGTERM or Ctrl-C is only noted; a second one acts as it always did."""

    def __init__(self) -> None:
        self.received: int | None = None
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
        self.received = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
