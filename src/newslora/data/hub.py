"""Data sets of the Hugging Face hub, by id; the address, the cache and offline mode are those of ``datasets``."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from newslora.config import DataConfig
from newslora.data.frame import Frame, decode_classes, reason
from newslora.errors import NewsloraError

if TYPE_CHECKING:
    from datasets import Dataset

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def read_hub(source: str, config: DataConfig, split: str) -> Frame:
    """Read one split of a hub data set; code of the data set is never run.

    Args:
        source: Its id, such as ``fancyzhx/ag_news``.
        config: Gives the configuration (subset) and the revision.
        split: Name of the split.

    Raises:
        NewsloraError: It cannot be had (no such id, split, configuration or revision; no network), or holds no rows.
    """
    import datasets  # takes a second, and only this source needs it

    try:
        table = datasets.load_dataset(source, name=config.configuration, split=split, revision=config.revision)
    except Exception as error:  # the hub, the network, the cache and every builder raise their own kinds
        raise NewsloraError(f"{source}: split {split} of the hub data set cannot be had ({reason(error)})") from error
    _check_revision(source, table, config.revision or "main")
    return _frame(source, table).check()


def _check_revision(source: str, table: "Dataset", revision: str) -> None:
    # Offline, or when the hub is out of reach, datasets gives whatever revision it cached last.
    cached = [Path(file["filename"]).parent.name for file in table.cache_files]
    wanted = revision if _COMMIT.fullmatch(revision) else _known_commit(source, revision)
    if wanted is not None and any(_COMMIT.fullmatch(commit) and commit != wanted for commit in cached):
        raise NewsloraError(f"{source}: the cache holds another revision than {revision} ({cached[0]}); go online once")


def _known_commit(source: str, revision: str) -> str | None:
    """Return the commit that a branch or tag stood for when last asked; ``None`` if the data set is unknown."""
    from huggingface_hub import constants, file_download

    known = Path(constants.HF_HUB_CACHE) / file_download.repo_folder_name(repo_id=source, repo_type="dataset") / "refs"
    if not known.is_dir():
        return None
    return (known / revision).read_text(encoding="utf-8").strip() if (known / revision).is_file() else "unknown"


def _frame(source: str, table: "Dataset") -> Frame:
    kept = {name: kind for name, kind in table.features.items() if _is_flat(kind)}
    columns: dict[str, list[object]] = table.select_columns(list(kept)).to_dict()
    classes = {name: tuple(kind.names) for name, kind in kept.items() if hasattr(kind, "names")}
    columns.update({name: decode_classes(columns[name], known) for name, known in classes.items()})
    return Frame(source, columns, list(range(1, len(table) + 1)), classes)


def _is_flat(kind: object) -> bool:
    dtype = str(getattr(kind, "dtype", ""))
    return dtype in {"string", "large_string", "bool"} or dtype.startswith(("int", "uint", "float"))
