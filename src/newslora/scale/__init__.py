"""The same work on more than one process or machine, by engines that exist."""

import importlib.util

from newslora.errors import NewsloraError


def require_ray(command: str) -> None:
    """Check that Ray is there, without importing it.

    Raises:
        NewsloraError: It is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise NewsloraError(f"{command} --engine ray: Ray is not installed; pip install 'newslora[ray]'")
