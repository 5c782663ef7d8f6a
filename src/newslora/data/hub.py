"""Data sets of the Hugging Face hub, by id; the address, the cache and offline mode are those of ``datasets``."""

from pathlib import Path
from typing import TYPE_CHECKING

from newslora.config import DataConfig
from newslora.data.commits import find_commit
from newslora.data.frame import Frame, decode_classes, reason
from newslora.errors import NewsloraError

if TYPE_CHECKING:
    from datasets import Dataset


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
        table = _read_prepared(source, config.configuration, commit, split) or datasets.load_dataset(
            source, name=config.configuration, split=split, revision=commit
        )
    except Exception as error:  # the hub, the network, the cache and every builder raise their own kinds
        raise NewsloraError(f"{source}: split {split} of the hub data set cannot be had ({reason(error)})") from error
    _check_commit(source, table, commit)
    return _frame(source, table).check()


def _read_prepared(source: str, configuration: str | None, commit: str, split: str) -> "Dataset | None":
    """Return the split if ``datasets`` prepared this very commit before; it asks the hub again, or takes any commit."""
    from datasets.config import HF_DATASETS_CACHE
    from datasets.naming import camelcase_to_snakecase
    from datasets.packaged_modules.cache.cache import Cache

    configuration = configuration or _default_configuration(source, commit)
    *owner, name = source.split("/")
    folder = Path(HF_DATASETS_CACHE, "___".join([*owner, camelcase_to_snakecase(name)]), configuration)
    version = next((path.parent.name for path in folder.glob(f"*/{commit}")), None)
    if version is None:
        return None
    known = {"dataset_name": name, "repo_id": source, "config_name": configuration}
    table: Dataset = Cache(**known, version=version, hash=commit).as_dataset(split=split)
    return table


def _default_configuration(source: str, commit: str) -> str:
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, try_to_load_from_cache

    card = try_to_load_from_cache(source, "README.md", revision=commit, repo_type="dataset")
    known = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data) if isinstance(card, str) else None
    return (known and known.get_default_config_name()) or "default"


def _check_commit(source: str, table: "Dataset", commit: str) -> None:
    # Where the hub is out of reach, datasets gives whatever commit it prepared last.
    got = Path(table.cache_files[0]["filename"]).parent.name if table.cache_files else commit
    if got != commit:
        raise NewsloraError(f"{source}: the cache holds commit {got}, not {commit}; go online once")


def _frame(source: str, table: "Dataset") -> Frame:
    kept = {name: kind for name, kind in table.features.items() if _is_flat(kind)}
    columns: dict[str, list[object]] = table.select_columns(list(kept)).to_dict()
    classes = {name: tuple(kind.names) for name, kind in kept.items() if hasattr(kind, "names")}
    columns.update({name: decode_classes(columns[name], known) for name, known in classes.items()})
    return Frame(source, columns, list(range(1, len(table) + 1)), classes)


def _is_flat(kind: object) -> bool:
    dtype = str(getattr(kind, "dtype", ""))
    return dtype in {"string", "large_string", "bool"} or dtype.startswith(("int", "uint", "float"))
