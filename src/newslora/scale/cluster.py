"""The Ray cluster that work runs on: one that runs already, or processes of this machine started for the work."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_TRAIN_V2_ENABLED": "1"}


@contextmanager
def cluster(workers: int | None, spare: int = 0) -> Iterator[int]:
    """Join the cluster that ``RAY_ADDRESS`` names, or start Ray on this machine until the block ends.

    Args:
        workers: Workers wanted, each with one processor core; all cores when None.
        spare: Cores beside them, for tasks that hardly compute.

    Yields:
        The number of workers.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    mine = not ray.is_initialized()
    if mine:
        _start(workers, spare)
    try:
        yield workers or max(1, int(ray.cluster_resources().get("CPU", 1)) - spare)
    finally:
        if mine:
            ray.shutdown()


def gpu_share(workers: int) -> float:
    """Return the share of a GPU that each of so many workers has; 0 on a cluster without any."""
    import ray

    return float(min(1.0, ray.cluster_resources().get("GPU", 0.0) / workers))


def _start(workers: int | None, spare: int) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return
    cores = (workers or len(os.sched_getaffinity(0))) + spare
    ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
