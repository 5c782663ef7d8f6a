"""Parquet files, also those a hub data set is stored in (their ``ClassLabel`` names are kept)."""

import json
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from newslora.data.frame import Frame, decode_classes, name_columns, reason
from newslora.data.lines import Expansion, read_bytes, reading
from newslora.errors import NewsloraError

_BATCH: Final = 64  # rows; a row's cells may be a MiB each
_OVERHEAD: Final = 64  # bytes a row takes at least in Python


def read_parquet(path: Path, *, lists: bool = False) -> Frame:
    """Read the text, number and truth columns of a Parquet file; nested ones are left out.

    Args:
        path: The file.
        lists: Whether columns of lists of these are read too.

    Raises:
        NewsloraError: A file that is broken, unfolds to more than a hundred times its size, or holds no rows.
    """
    with reading(path):
        source = pa.BufferReader(read_bytes(path)) if path.suffix == ".gz" else pa.memory_map(str(path))
    try:
        return _read(pq.ParquetFile(source), path, lists).check()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NewsloraError(f"{path}: broken Parquet ({reason(error)}); write or copy it again") from error


def _read(file: pq.ParquetFile, path: Path, lists: bool) -> Frame:
    schema = file.schema_arrow
    name_columns(schema.names, str(path))
    names = [field.name for field in schema if _is_flat(_item(field.type) if lists else field.type)]
    columns: dict[str, list[object]] = {name: [] for name in names}
    expansion = Expansion(path)
    for batch in file.iter_batches(batch_size=_BATCH, columns=names, use_threads=False):
        expansion.add(batch.nbytes + _OVERHEAD * batch.num_rows)
        for name in names:
            columns[name].extend(batch.column(name).to_pylist())
    classes = {name: known for name, known in _declared(schema).items() if name in columns}
    columns.update({name: decode_classes(columns[name], known) for name, known in classes.items()})
    height = len(columns[names[0]]) if names else 0
    return Frame(str(path), columns, list(range(1, height + 1)), classes)


def _item(kind: pa.DataType) -> pa.DataType:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return kind.value_type if listed else kind


def _is_flat(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
    )
    return any(check(value) for check in checks)


def _declared(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the ``ClassLabel`` names that ``datasets`` writes into the schema's metadata, by column."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(text).get("info", {}).get("features", {})
    return {
        name: tuple(map(str, kind["names"])) for name, kind in features.items() if kind.get("_type") == "ClassLabel"
    }
