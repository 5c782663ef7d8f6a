"""Settings as text: what a YAML file and a command line may hold."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from newslora.errors import NewsloraError
from newslora.values import Layers, Seeds, nearest, parse_value, read_yaml


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1))
def test_layer_ranges_stand_for_their_numbers(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    expected = tuple(number for first, more in ranges for number in range(first, first + more + 1))
    assert TypeAdapter(Layers).validate_python(text) == expected
    assert TypeAdapter(Layers).validate_python(list(expected)) == expected


@pytest.mark.parametrize(
    ("text", "value"), [("null", None), ("None", None), ("nothing", "nothing"), ("", ""), ("0", "0")]
)
def test_only_null_is_read(text: str, value: str | None) -> None:
    assert parse_value(text) == value


def test_a_mapping_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("data: {train: ümlaut.csv}\n", encoding="utf-8")
    assert read_yaml(file) == {"data": {"train": "ümlaut.csv"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lora: {r: 8\ntrain: x\n", r"a\.yaml:\d: not readable as YAML \(.+\); give a YAML file"),
        (b"lora:\n\tr: 8\n", r"a\.yaml:2: not readable as YAML"),
        (b"\xff\xfe\xff", r"a\.yaml: not readable as YAML \(.+\)"),
        (b"", r"a\.yaml: holds no settings; give sections"),
        (b"- 1\n", r"a\.yaml: holds no settings"),
        (b"lora: &all {r: 8}\ntrain: *all\n", r"a\.yaml:2: not readable as YAML \(aliases are not allowed\)"),
        (b"a: " + b"[" * 9999, r"a\.yaml: not readable as YAML \(maximum recursion depth exceeded.*\)"),
        (
            b"a: 1\n" + b"#" * (1 << 20),
            r"a\.yaml: is larger than the 1,048,576 bytes that settings may have; give a YAML",
        ),
        (b"!!python/object/apply:os.system ['true']\n", r"a\.yaml:1: not readable as YAML \(could not determine"),
    ],
)
def test_what_is_no_mapping_in_yaml_is_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(NewsloraError, match=message) as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_what_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match=r"cannot be read \((No such file|Is a directory)"):
        read_yaml(tmp_path / name)


def test_the_nearest_name_or_all() -> None:
    assert nearest("epoch", ["lr", "epochs"]) == "did you mean epochs?"
    assert nearest("zzz", (name for name in ("lr", "epochs"))) == "known: lr, epochs"


@pytest.mark.parametrize("text", ["0,1,4", " 0, 1,4", [0, 1, 4], (0, 1, 4)])
def test_seeds_are_read_from_text_and_from_lists(text: object) -> None:
    assert TypeAdapter(Seeds).validate_python(text) == (0, 1, 4)


@pytest.mark.parametrize("text", ["3", [3], "0,0", "0,x", "-1,2", "", 5])
def test_what_are_no_several_seeds_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Seeds).validate_python(text)
