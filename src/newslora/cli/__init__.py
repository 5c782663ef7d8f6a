"""The command line: one thin function a command."""

import os


def speaks() -> bool:
    """Whether this process is the one that prints: of those that train together, the first."""
    return os.environ.get("RANK", "0") == "0"
