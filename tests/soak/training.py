"""A small training run in a child process that can be killed, and what two such runs must share."""

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.newsroom import articles, make_backbone, write_table

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.model import prefix
from newslora.training.run_folder import RunFolder
from newslora.workflow import train

# Calls of the system that change what stands on the disk; Python tells of each before it is made.
CHANGES = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.symlink"})


def settings(place: Path, mode: str) -> RunConfig:
    """Two epochs of 20 steps, a checkpoint every 3: some two seconds."""
    if not (place / "backbone").exists():
        make_backbone(place / "backbone")
        write_table(place / "train.csv", articles(110))
    lora = {"targets": "all-linear", "r": 4, "dropout": 0.1} | ({"layers": "1"} if mode == "prefix" else {})
    size = {"batch_size": 2 if mode == "two" else 4, "epochs": 2, "lr": 0.01, "checkpoint_steps": 3}
    data = {"train": str(place / "train.csv"), "validation_share": 0.25, "near_duplicates": False}
    model = {"backbone": str(place / "backbone"), "head": "full", "dropout": 0.1}
    return RunConfig.from_dict({"data": data, "model": model, "lora": lora, "train": size})


def outcome(path: Path) -> dict[str, Any]:
    """Return what must be equal: the adapter's bytes, all of them; metrics without times; the learning curve."""
    rows = [
        {name: value for name, value in row.items() if name not in ("seconds", "samples_per_second")}
        for row in RunFolder(path).metrics()
    ]
    files = {file.name: file.read_bytes() for file in sorted((path / "adapter").iterdir())}
    return {"adapter": files, "metrics": rows, "steps": (path / "steps.jsonl").read_bytes()}


def start(
    config: RunConfig,
    run: Path,
    *,
    resume: bool,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> int:
    """Train in a forked child and return its process id; it leaves with 0, 2 for a one-line error, or 70 for a bug."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.environ.update(environment or {})
        prefix.build_prefix.__defaults__ = (0,)  # the cache goes to a file however small it is
        if before is not None:
            before()
        # Killed before the folder was made, a run has nothing to go on with.
        train(config, run, resume=resume and (run / "config.yaml").exists())
        status = 0
    except NewsloraError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def die_at_change(number: int, places: tuple[Path, ...]) -> Callable[[], None]:
    """Return what makes this process kill itself right before its so-manieth change below ``places``."""
    seen = 0
    prefixes = tuple(map(str, places))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if _changes(event, arguments, prefixes):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    return lambda: sys.addaudithook(hook)


def _changes(event: str, arguments: tuple[Any, ...], prefixes: tuple[str, ...]) -> bool:
    if event not in CHANGES or not str(arguments[0]).startswith(prefixes):
        return False
    return event != "open" or bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def count_changes(config: RunConfig, run: Path, places: tuple[Path, ...]) -> int:
    """Return how many changes below ``places`` an uninterrupted run makes."""
    reading, writing = os.pipe()
    prefixes = tuple(map(str, places))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if _changes(event, arguments, prefixes):
            os.write(writing, b"x")

    child = start(config, run, resume=False, before=lambda: sys.addaudithook(hook))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        changes = len(pipe.read())
    wait([child])
    return changes


def wait(children: list[int], seconds: float = 300.0) -> list[int]:
    """Return the statuses of children, negative for a signal; those not ended in time are killed."""
    end = time.monotonic() + seconds
    left, statuses = dict.fromkeys(children), {}
    while left:
        for child in list(left):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                statuses[child] = os.waitstatus_to_exitcode(status)
                del left[child]
        if time.monotonic() > end:
            for child in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return [statuses[child] for child in children]


def pair() -> list[dict[str, str]]:
    """Return the environments of two processes that train together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
