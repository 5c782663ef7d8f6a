"""Data sets of the Hugging Face hub, by id; the address, the cache and offline mode are those of ``datasets``."""

from typing import TYPE_CHECKING

from newslora.config import DataConfig
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
        table = datasets.load_dataset(source, name=config.configuration, split=split, revision=config.revision)
    except Exception as error:  # the hub, the network, the cache and every builder raise their own kinds
        raise NewsloraError(f"{source}: split {split} of the hub data set cannot be had ({reason(error)})") from error
    return _frame(source, table).check()


def _frame(source: str, table: "Dataset") -> Frame:
    kept = {name: kind for name, kind in table.features.items() if _is_flat(kind)}
    columns: dict[str, list[object]] = table.select_columns(list(kept)).to_dict()
    classes = {name: tuple(kind.names) for name, kind in kept.items() if hasattr(kind, "names")}
    columns.update({name: decode_classes(columns[name], known) for name, known in classes.items()})
    return Frame(source, columns, list(range(1, len(table) + 1)), classes)


def _is_flat(kind: object) -> bool:
    dtype = str(getattr(kind, "dtype", ""))
    return dtype in {"string", "large_string", "bool"} or dtype.startswith(("int", "uint", "float"))
