"""The command line: one thin function a command."""

import os


def speaks() -> bool:
    """Whether this process is the one that prints: of those that train together, the first."""
    return os.environ.get("RANK", "0") == "0"


def tells_faults() -> bool:
    """Whether this process prints what went wrong: the first of each machine, which may be cut off from the others."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
