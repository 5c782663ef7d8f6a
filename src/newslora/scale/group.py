"""What each worker of a group on Ray Train does: the local engine's training, and word of it to who asked for it."""

import os
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from newslora.config import RunConfig
from newslora.data.prepare import Prepared
from newslora.data.story import RowCounts
from newslora.errors import Lost, NewsloraError
from newslora.scale.mailbox import Mailbox
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


@dataclass(frozen=True)
class Task:
    """What a group is to do.

    Attributes:
        config: The settings.
        output: The run folder, which stands already.
        folder: Where the command was given, which the settings' paths may be relative to.
        mailbox: Where word goes.
    """

    config: RunConfig
    output: Path
    folder: str
    mailbox: Mailbox


def work(task: Task) -> None:
    """Train with the other workers of the group, from the run's last checkpoint.

    Raises:
        Lost: Another worker was lost, so that the group is to be started again; all other faults are told by letter.
    """
    os.chdir(task.folder)
    try:
        if start_processes().is_main_process:
            task.mailbox.send(Begun())
            _await_locks(task.output)
        _train(task)
    except Lost:
        raise
    except NewsloraError as error:
        task.mailbox.send(Fault(str(error), bug=False))
    except Exception:
        task.mailbox.send(Fault(traceback.format_exc(), bug=True))


def _train(task: Task) -> None:
    # The folder was made before the group was started. Without a checkpoint, to resume is to begin.
    go = train if task.config.train.seeds is None else train_seeds
    go(task.config, task.output, resume=True, report=_Reporter(task.mailbox))


def _await_locks(output: Path) -> None:
    """Wait for a lost group's main process, which may not have left yet."""
    end = time.monotonic() + _PATIENCE
    for file in output.rglob(".lock"):
        while time.monotonic() < end:
            with suppress(NewsloraError), RunFolder(file.parent).lock():
                break
            time.sleep(0.1)


class _Reporter:
    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox, self._since = mailbox, 0.0

    def __call__(self, message: Event | Prepared | Built) -> None:
        if isinstance(message, StepDone):
            if time.monotonic() - self._since < PAUSE:
                return
            self._since = time.monotonic()
        self._mailbox.send(message.counts() if isinstance(message, Prepared) else message)
