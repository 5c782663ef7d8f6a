import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from newslora import NewsloraError
from newslora.data.parquet import read_parquet

COLUMNS = {"text": ["a", None, "c"], "label": [0, 1, -1], "share": [0.5, 1.0, 2.0], "nested": [[1], [2], [3]]}


def test_flat_columns_are_read_and_nested_ones_left_out(tmp_path: Path) -> None:
    pq.write_table(pa.table(COLUMNS), tmp_path / "a.parquet", use_dictionary=["text"])
    frame = read_parquet(tmp_path / "a.parquet")
    assert frame.columns == {name: COLUMNS[name] for name in ("text", "label", "share")}
    assert frame.places == [1, 2, 3]


def test_gzipped(tmp_path: Path) -> None:
    pq.write_table(pa.table(COLUMNS), tmp_path / "a.parquet")
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert read_parquet(tmp_path / "b.parquet.gz").columns["text"] == ["a", None, "c"]


def test_names_declared_by_datasets_are_kept(tmp_path: Path) -> None:
    features = {
        "label": {"names": ["Money", "Sport"], "_type": "ClassLabel"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(COLUMNS).replace_schema_metadata(metadata), tmp_path / "a.parquet")
    frame = read_parquet(tmp_path / "a.parquet")
    assert frame.columns["label"] == ["Money", "Sport", None]
    assert frame.classes == {"label": ("Money", "Sport")}


@pytest.mark.parametrize(
    "metadata", ["{", "[]", '{"info": 1}', '{"info": {"features": {"label": {"_type": "ClassLabel"}}}}']
)
def test_metadata_from_a_stranger_is_no_traceback(tmp_path: Path, metadata: str) -> None:
    pq.write_table(pa.table(COLUMNS).replace_schema_metadata({"huggingface": metadata}), tmp_path / "a.parquet")
    with pytest.raises(NewsloraError, match="broken Parquet"):
        read_parquet(tmp_path / "a.parquet")


def test_every_cut_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table(COLUMNS), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for cut in range(1, len(whole), 41):
        (tmp_path / "b.parquet").write_bytes(whole[:cut])
        with pytest.raises(NewsloraError, match=r"b\.parquet: broken Parquet"):
            read_parquet(tmp_path / "b.parquet")


def test_empty_files_and_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    with pytest.raises(NewsloraError, match=r"a\.parquet: "):
        read_parquet(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    with pytest.raises(NewsloraError, match="holds no rows"):
        read_parquet(tmp_path / "b.parquet")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    cells = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), pa.array(["x" * 500_000]))
    pq.write_table(pa.table({"text": cells}), tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(NewsloraError, match="unfolds to more than 100 times its size"):
        read_parquet(tmp_path / "a.parquet")


def test_a_bomb_of_nothing_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.nulls(3_000_000, pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(NewsloraError, match="unfolds to more than 100 times its size"):
        read_parquet(tmp_path / "a.parquet")
