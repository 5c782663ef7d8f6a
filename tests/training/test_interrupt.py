import os
import signal
import threading
from types import FrameType

import pytest

from newslora.training.interrupt import Interrupt


def test_sigterm_is_noted_and_leaves_with_143() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.received == signal.SIGTERM
        with pytest.raises(SystemExit) as caught:
            interrupt.leave()
    assert caught.value.code == 143


def test_a_second_ctrl_c_acts_at_once() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupt.leave()


def test_earlier_handlers_come_back_and_ignored_signals_stay_ignored() -> None:
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGTERM, note), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
    assert interrupt.received is None
    assert seen == [signal.SIGTERM]


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    handlers: list[object] = []

    def enter() -> None:
        with Interrupt():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_a_signal_that_follows_at_once_is_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("newslora.training.interrupt.time.monotonic", lambda: now[0])
    with Interrupt(grace=1.0) as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += 0.9
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.received == signal.SIGINT
        now[0] += 0.1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
