from pathlib import Path

import pytest

from newslora import NewsloraError
from newslora.data.frame import ABSENT
from newslora.data.jsonl import read_jsonl


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    return tmp_path / "a.jsonl"


def test_rows_become_columns_with_their_lines(tmp_path: Path) -> None:
    frame = read_jsonl(write(tmp_path, '{"text": "é\\n", "label": 1}\n\n{"label": null, "text": "b"}\n{"text": "c"}\n'))
    assert frame.columns == {"text": ["é\n", "b", "c"], "label": [1, None, ABSENT]}
    assert frame.places == [1, 3, 4]


def test_keys_that_most_rows_lack_are_left_out(tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "a", "extra{i}": 1}}\n' for i in range(5))
    assert list(read_jsonl(write(tmp_path, rows)).columns) == ["text"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": holds no rows"),
        ('{"text": "a"}\n{"text": "b"\n', ":2: not readable as JSON (Expecting ',' delimiter at column"),
        ('{"text": "a"}\n["b"]\n', ":2: holds a JSON list; give one object a line"),
        ('"text"\n', ":1: holds a JSON str; give one object a line"),
        ("[" * 200_000 + "\n", ":1: not readable as JSON (maximum recursion depth"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000 + "\n", ":1: not readable as JSON (maximum recursion depth"),
        ('{"text": ' + "9" * 10_000 + "}\n", ":1: not readable as JSON (Exceeds the limit"),
        ('{"text": "\\ud83d"}\n', ":1: holds half of a surrogate pair"),
    ],
)
def test_a_line_at_fault_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(NewsloraError) as caught:
        read_jsonl(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_whole_surrogate_pairs_are_one_character(tmp_path: Path) -> None:
    assert read_jsonl(write(tmp_path, '{"text": "\\ud83d\\ude00"}\n')).columns["text"] == ["😀"]
