import pytest

from newslora import NewsloraError
from newslora.data.frame import Frame, decode_classes, listed, name_columns, reason, shown


def test_a_frame_without_rows_or_too_wide_is_refused() -> None:
    good = Frame("a.csv", {"a": [1]}, [2])
    assert good.check() is good
    with pytest.raises(NewsloraError, match=r"a\.csv: holds no rows"):
        Frame("a.csv", {"a": []}, []).check()
    with pytest.raises(NewsloraError, match=r"a\.csv: has 4097 columns"):
        Frame("a.csv", {str(i): [1] for i in range(4097)}, [2]).check()


def test_what_is_shown_is_one_short_line() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert len(shown("x" * 999)) == 60
    assert listed(["a\nb", "c"]) == "a\\nb, c"
    assert listed(map(str, range(30))).endswith("18, 19, …")
    assert reason(ValueError("a\n  b")) == "a b"
    assert reason(FileNotFoundError(2, "No such file", "x")) == "No such file"
    assert reason(KeyError()) == "KeyError"
    assert len(reason(ValueError("x" * 999))) == 200


def test_nameless_columns_are_numbered_and_equal_names_refused() -> None:
    assert name_columns([" a ", "", "b"], "a.csv:1") == ["a", "column 2", "b"]
    with pytest.raises(NewsloraError, match=r"a\.csv:1: two columns are named 'a'"):
        name_columns(["a", "b", "a "], "a.csv:1")


def test_codes_without_a_name_are_no_labels() -> None:
    assert decode_classes([1, 0, -1, 2, None], ("x", "y")) == ["y", "x", None, None, None]
