"""Ray's worker processes under a command, to be killed."""

import psutil


def title(process: psutil.Process) -> str:
    """Return what Ray calls a process, such as ``ray::RayTrainWorker.poll``; nothing when it has gone."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def find_workers(driver: int, kind: str) -> list[psutil.Process]:
    """Return the workers of a kind, by the start of its name, below a process."""
    try:
        below = psutil.Process(driver).children(recursive=True)
    except psutil.Error:
        return []
    return [process for process in below if title(process).startswith(f"ray::{kind}")]
