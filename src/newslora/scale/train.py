"""Training on Ray Train: the local engine's loop in a group of workers, started again when one of them is lost."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from newslora.config import RunConfig
from newslora.data.prepare import Prepared
from newslora.data.story import RowCounts
from newslora.errors import NewsloraError
from newslora.scale.cluster import cluster
from newslora.scale.group import Begun, Fault, Letter, Task, work
from newslora.scale.mailbox import Mailbox
from newslora.training.processes import TIMEOUT
from newslora.training.progress import Event, Restarted
from newslora.training.run_folder import RunFolder
from newslora.workflow import Built

LOSSES: Final = 30
"""Times that the group is started again before training counts as something that kills its workers."""
STARTS: Final = 5
"""Times that a group is tried to be started, where workers are lost before it has."""
_GRACE: Final = 5.0  # seconds for the group to end by itself when a fault was told

Report = Callable[[Event | Prepared | RowCounts | Built], None]


def train_on_ray(
    config: RunConfig,
    output: str | Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    report: Report = lambda _: None,
) -> RunFolder:
    """Train as :func:`newslora.workflow.train` does, or over several seeds, with the workers of a Ray cluster.

    The workers are the processes that ``torchrun`` would start: each takes its share of every batch, and a batch is as
    many times larger. When one is lost, all are started again and go on from the run's last checkpoint; the run ends
    with the bytes of one that nothing interrupted.

    Args:
        config: The settings.
        output: The run folder, on a disk that all machines share.
        resume: Go on from the run's last checkpoint; with as many workers as before.
        workers: Workers, each on one core, and on one GPU where there are enough; when None, one for each GPU of the
            cluster, or for each core.
        report: As for the local engine, but for :class:`newslora.data.story.RowCounts` instead of the data.

    Returns:
        The run folder.

    Raises:
        NewsloraError: As for the local engine; more workers than cores; or workers were lost again and again.
    """
    output = Path(output)
    run = RunFolder.open(output) if resume else RunFolder.create(output, config)
    try:
        with run.lock():
            pass  # nobody trains here: what holds it later is what is left of a lost group
        _try_to_train(config, run, workers, report)
    except Exception:
        if not resume and not any(run.seed(seed).exists() for seed in config.train.seeds or ()):
            run.discard_unless_resumable()
        raise
    return run


class _NotStarted(NewsloraError):
    """A worker was lost while the group was starting."""


def _try_to_train(config: RunConfig, run: RunFolder, workers: int | None, report: Report) -> None:
    for start in range(1, STARTS + 1):
        try:
            with cluster(workers) as cores:
                return _train(config, run, _scale(workers, cores), report)
        except _NotStarted:
            import ray  # not before the cluster's settings are made

            # Ray Train counts this as its own failure, and keeps the cores for the group that never was: they come
            # back when this process leaves the cluster, which it cannot where somebody else had joined it.
            if start == STARTS or ray.is_initialized():
                raise
            report(Restarted())


def _scale(workers: int | None, cores: int) -> dict[str, Any]:
    import ray

    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    count = workers or gpus or cores
    if count > there.get("CPU", 0):
        raise NewsloraError(f"--workers {count}: the cluster has {there.get('CPU', 0):.0f} cores; give no more")
    return {"num_workers": count, "use_gpu": count <= gpus}


def _train(config: RunConfig, run: RunFolder, scale: dict[str, Any], report: Report) -> None:
    mailbox = Mailbox()
    task = Task(config, run.path, str(Path.cwd()), mailbox)
    with TemporaryDirectory(prefix="newslora-", ignore_cleanup_errors=True) as folder:
        group = _Group(task, scale, folder)
        group.start()
        _follow(group, mailbox.take, report)
    if group.error is not None:
        raise group.error


class _Group(threading.Thread):
    """Waits for the group in a thread, so that its letters can be read meanwhile.

    Attributes:
        error: Why it could not come to its end.
    """

    def __init__(self, task: Task, scale: dict[str, Any], folder: str) -> None:
        super().__init__(daemon=True)
        self._own = (task, scale, folder)
        self.error: Exception | None = None

    def run(self) -> None:
        """Start the group, until it comes to its end."""
        from ray.train import ControllerError, WorkerGroupError

        again = "look for what ends them (memory?), then --resume"
        try:
            _fit(*self._own)
        except ControllerError as error:
            self.error = _NotStarted(f"workers were lost while they were starting; {again}")
            self.error.__cause__ = error
        except WorkerGroupError as error:
            self.error = NewsloraError(f"workers were lost {LOSSES + 1} times; {again}")
            self.error.__cause__ = error
        except Exception as error:  # told by the thread that asked
            self.error = error


def _fit(task: Task, scale: dict[str, Any], folder: str) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        partial(work, task),  # not as train_loop_config, which Ray's controller would import all of newslora for
        torch_config=TorchConfig(timeout_s=int(TIMEOUT.total_seconds())),
        scaling_config=ScalingConfig(**scale),
        # Ray's own records; the checkpoints are those of the run folder.
        run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=LOSSES)),
    ).fit()


def _follow(group: _Group, take: Callable[[], list[Letter]], report: Report) -> None:
    """Tell of what the workers write until the group has ended.

    Raises:
        NewsloraError: A worker has met a fault of the user's.
        RuntimeError: A worker has met a bug.
    """
    starts, alive = 0, True
    while alive:
        alive = group.is_alive()
        for letter in take():
            if isinstance(letter, Fault):
                group.join(_GRACE)
                raise RuntimeError(letter.text) if letter.bug else NewsloraError(letter.text)
            if not isinstance(letter, Begun):
                report(letter)
                continue
            starts += 1
            if starts > 1:
                report(Restarted())
        group.join(0.2)
