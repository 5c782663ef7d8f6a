"""Hub repositories: the commit that a branch or a tag stands for, so that all of a run reads one and the same."""

import logging
import re
from functools import cache
from typing import Final, Literal

from newslora.data.frame import reason

Kind = Literal["model", "dataset"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_FIRST_FILE: Final = {"model": "config.json", "dataset": "README.md"}
_log = logging.getLogger(__name__)


@cache
def find_commit(repository: str, revision: str | None, kind: Kind) -> str:
    """Return the commit that a revision of a hub repository stands for, as the hub said when this process first asked.

    Where the hub is out of reach, or in offline mode, it is what the cache noted last. What is read by its commit comes
    from the cache without asking the hub again; and what is not to be had is known at once, where the libraries would
    retry for minutes.

    Args:
        repository: Id, such as ``FacebookAI/roberta-base``.
        revision: Branch, tag or commit; None is the default branch.
        kind: What the repository holds.

    Raises:
        LookupError: It is not to be had; the message is one line and leaves the repository's name to the caller.
    """
    try:
        return _resolve(repository, revision, kind)
    except Exception as error:  # the hub's client, the network and the cache raise their own kinds
        raise LookupError(_explain(error, revision)) from error


def _resolve(repository: str, revision: str | None, kind: Kind) -> str:
    # Takes half a second, and only the hub's users need it.
    from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache

    if revision and _COMMIT.fullmatch(revision):
        held = try_to_load_from_cache(repository, _FIRST_FILE[kind], revision=revision, repo_type=kind) is not None
        if held or _is_reached(repository, revision, kind):
            return revision
        raise FileNotFoundError
    reached = _is_reached(repository, revision, kind)
    found = HfApi().resolve_revision(repository, repo_type=kind, revision=revision, local_files_only=not reached)
    commit: str = found.resolved
    if not reached and not is_offline_mode():
        _log.warning("%s: the hub cannot be reached; its last commit in the cache is taken (%s)", repository, commit)
    return commit


def _is_reached(repository: str, revision: str | None, kind: Kind) -> bool:
    """Ask the hub for a revision; what the hub refuses is raised, that it cannot be asked is not."""
    from huggingface_hub import HfApi, constants, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError

    if is_offline_mode():
        return False
    try:
        HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        if isinstance(error, ValueError) or (isinstance(error, HfHubHTTPError) and error.response.status_code < 500):
            raise
        return False
    return True


def _explain(error: Exception, revision: str | None) -> str:
    from huggingface_hub import errors, is_offline_mode

    match error:
        case errors.HFValidationError():
            return "there is no such file or folder, and it is no hub id"
        case errors.GatedRepoError():
            return "it is gated: ask for access on its page and log in by `hf auth login`"
        case errors.RepositoryNotFoundError():
            return "the hub has none of this name, or it is private"
        case errors.RevisionNotFoundError():
            return f"the hub has no revision {revision!r} of it"
        case errors.HfHubHTTPError():
            return f"the hub answers {error.response.status_code}: {reason(error)}"
    why = "offline mode is on" if is_offline_mode() else "the hub cannot be reached"
    return f"{why}, and the cache does not hold it"
