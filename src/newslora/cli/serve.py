"""``newslora serve``: run folders and exports behind an API and a page."""

import argparse
import os
from pathlib import Path

from newslora.errors import NewsloraError

_VARIABLE = "NEWSLORA_TOKEN"
_SHORTEST = 16


def serve(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """Load what is given and answer until told to end."""
    try:
        from newslora.serving.server import serve as run
    except ModuleNotFoundError as error:
        raise NewsloraError(f"newslora serve: {error.name} is missing; install newslora[serve]") from error
    from newslora.model.memory import keep_memory
    from newslora.serving.library import Library

    keep_memory()
    token = _token(options.token_file)
    folder = Path(options.adapters) if options.adapters else None
    run(Library([Path(path) for path in options.runs], folder), options.host, options.port, token)


def _token(file: str | None) -> str | None:
    if file is None:
        token, where = os.environ.get(_VARIABLE), _VARIABLE
    else:
        where = file
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise NewsloraError(f"--token-file: {file} cannot be read; give a file that holds the token") from error
    if token is not None and (len(token) < _SHORTEST or not token.isascii() or not token.isprintable()):
        raise NewsloraError(f"{where}: the token must have {_SHORTEST} printable ASCII characters or more")
    return token
