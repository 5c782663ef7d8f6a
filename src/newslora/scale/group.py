"""What each worker of a group on Ray Train does: the local engine's training, and word of it to who asked for it."""

import os
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from newslora.config import RunConfig
from newslora.data.prepare import Prepared
from newslora.data.story import RowCounts
from newslora.errors import Lost, NewsloraError
from newslora.seeds import train_seeds
from newslora.training.processes import start_processes
from newslora.training.progress import Event, StepDone
from newslora.training.run_folder import RunFolder
from newslora.workflow import Built, train

PAUSE: Final = 0.5
"""Seconds between two words on the step reached."""
_PATIENCE: Final = 60.0  # seconds that a lost group's main process may take to be gone


@dataclass(frozen=True)
class Begun:
    """The group has been started."""


@dataclass(frozen=True)
class Fault:
    """Why training cannot go on.

    Attributes:
        text: One line; for a bug, its traceback.
        bug: Whether newslora is at fault and not the user's input.
    """

    text: str
    bug: bool


Letter = Begun | Fault | Event | RowCounts | Built


class Mailbox:
    """Letters of the workers, kept until they are taken; lives in a process of its own."""

    def __init__(self) -> None:
        self._letters: list[Letter] = []

    def put(self, letter: Letter) -> None:
        """Add one."""
        self._letters.append(letter)

    def take(self) -> list[Letter]:
        """Return all that came since the last call."""
        letters, self._letters = self._letters, []
        return letters


@dataclass(frozen=True)
class Task:
    """What a group is to do.

    Attributes:
        config: The settings.
        output: The run folder, which stands already.
        folder: Where the command was given, which the settings' paths may be relative to.
        mailbox: Ray's handle of a :class:`Mailbox`.
    """

    config: RunConfig
    output: Path
    folder: str
    mailbox: Any


def work(task: Task) -> None:
    """Train with the other workers of the group, from the run's last checkpoint.

    Raises:
        Lost: Another worker was lost, so that the group is to be started again; all other faults are told by letter.
    """
    os.chdir(task.folder)
    post = _Post(task.mailbox)
    try:
        if start_processes().is_main_process:
            post.send(Begun())
            _await_locks(task.output)
        _train(task, post)
    except Lost:
        raise
    except NewsloraError as error:
        post.send(Fault(str(error), bug=False))
    except Exception:
        post.send(Fault(traceback.format_exc(), bug=True))


def _train(task: Task, post: "_Post") -> None:
    # The folder was made before the group was started. Without a checkpoint, to resume is to begin.
    go = train if task.config.train.seeds is None else train_seeds
    go(task.config, task.output, resume=True, report=post)


def _await_locks(output: Path) -> None:
    """Wait for a lost group's main process, which may not have left yet."""
    end = time.monotonic() + _PATIENCE
    for file in output.rglob(".lock"):
        while time.monotonic() < end:
            with suppress(NewsloraError), RunFolder(file.parent).lock():
                break
            time.sleep(0.1)


class _Post:
    """Sends letters, each on its way when the call returns."""

    def __init__(self, mailbox: Any) -> None:  # noqa: ANN401 - Ray has no type for it
        self._mailbox, self._since = mailbox, 0.0

    def __call__(self, message: Event | Prepared | Built) -> None:
        if isinstance(message, StepDone):
            if time.monotonic() - self._since < PAUSE:
                return
            self._since = time.monotonic()
        self.send(message.counts() if isinstance(message, Prepared) else message)

    def send(self, letter: Letter) -> None:
        import ray

        ray.get(self._mailbox.put.remote(letter))
