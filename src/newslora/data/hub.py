"""Data sets of the Hugging Face hub, by id; the address, the cache and offline mode are those of ``datasets``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from newslora.config import DataConfig
from newslora.data.commits import find_commit
from newslora.data.frame import Frame, decode_classes, reason
from newslora.errors import NewsloraError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


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
        commit = find_commit(source, config.revision, "dataset")
        name = config.configuration or _default_configuration(source, commit)
        with _without_bars():
            table = _read_prepared(source, name or "default", commit, split) or datasets.load_dataset(
                source, name=name, split=split, revision=commit
            )
    except Exception as error:  # the hub, the network, the cache and every builder raise their own kinds
        raise NewsloraError(f"{source}: split {split} of the hub data set cannot be had ({reason(error)})") from error
    _check_commit(source, table, commit)
    return _frame(source, table).check()


def open_hub(source: str, config: DataConfig, split: str) -> "IterableDataset":
    """Open one split of a hub data set for reading row by row; the arguments are those of :func:`read_hub`.

    Raises:
        LookupError: There is no such data set or commit.
        Exception: What the hub's client and ``datasets`` raise.
    """
    import datasets

    commit = find_commit(source, config.revision, "dataset")
    name = config.configuration or _default_configuration(source, commit)
    return datasets.load_dataset(source, name=name, split=split, revision=commit, streaming=True)


@contextmanager
def _without_bars() -> Iterator[None]:
    # The progress that datasets prints would stand before the command's own, and before the line of an error.
    from datasets import utils

    shown = utils.is_progress_bar_enabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()


def _read_prepared(source: str, configuration: str, commit: str, split: str) -> "Dataset | None":
    """Return the split if ``datasets`` prepared this commit before.

    It would itself ask the hub again, and without one take whatever commit it prepared last.
    """
    from datasets.config import HF_DATASETS_CACHE
    from datasets.naming import camelcase_to_snakecase
    from datasets.packaged_modules.cache.cache import Cache

    *owner, name = source.split("/")
    folder = Path(HF_DATASETS_CACHE, "___".join([*owner, camelcase_to_snakecase(name)]), configuration)
    version = next((path.parent.name for path in folder.glob(f"*/{commit}")), None)
    if version is None:
        return None
    known = {"dataset_name": name, "repo_id": source, "config_name": configuration}
    table: Dataset = Cache(**known, version=version, hash=commit).as_dataset(split=split)
    return table


def _default_configuration(source: str, commit: str) -> str | None:
    """Return what the card in the cache names as the default; ``datasets`` offline takes whichever came last."""
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, try_to_load_from_cache

    card = try_to_load_from_cache(source, "README.md", revision=commit, repo_type="dataset")
    known = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data) if isinstance(card, str) else None
    name: str | None = known.get_default_config_name() if known else None
    return name


def _check_commit(source: str, table: "Dataset", commit: str) -> None:
    # Where the hub is out of reach, datasets gives whatever commit it prepared last.
    got = Path(table.cache_files[0]["filename"]).parent.name if table.cache_files else commit
    if got != commit:
        raise NewsloraError(f"{source}: the cache holds commit {got}, not {commit}; go online once")


def _frame(source: str, table: "Dataset") -> Frame:
    kept = {name: kind for name, kind in table.features.items() if is_flat(kind)}
    columns: dict[str, list[object]] = table.select_columns(list(kept)).to_dict()
    classes = {name: tuple(kind.names) for name, kind in kept.items() if hasattr(kind, "names")}
    columns.update({name: decode_classes(columns[name], known) for name, known in classes.items()})
    return Frame(source, columns, list(range(1, len(table) + 1)), classes)


def is_flat(kind: object) -> bool:
    """Whether a feature is of text, numbers or truth, and not nested."""
    dtype = str(getattr(kind, "dtype", ""))
    return dtype in {"string", "large_string", "bool"} or dtype.startswith(("int", "uint", "float"))
