from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newslora import NewsloraError
from newslora.data.labels import encode_labels, label_base, label_names
from newslora.data.sources import Table

NAMES = ("World", "Sports", "Business")


def table(*labels: str | int, classes: tuple[str, ...] | None = None) -> Table:
    return Table("a.csv", [""] * len(labels), list(labels), list(range(2, 2 + len(labels))), classes)


def test_known_names_keep_their_order_even_those_without_rows() -> None:
    assert label_names(table("Sports", "World", classes=NAMES)) == NAMES


def test_unknown_names_are_sorted() -> None:
    assert label_names(table("b", "c", "a", "b")) == ("a", "b", "c")


def test_integers_without_names_become_their_text_in_order_of_value() -> None:
    integers = table(10, "2", 1, 2)
    assert label_names(integers) == ("1", "2", "10")
    assert encode_labels(integers, ("1", "2", "10")) == [2, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "base", "codes"),
    [
        ((1, 3, 2), 1, [0, 2, 1]),
        (("1", "3", "2.0"), 1, [0, 2, 1]),
        ((0, 2, 1), 0, [0, 2, 1]),
        ((1, 2, 2), 1, [0, 1, 1]),
        (("Sports", "World"), None, [1, 0]),
        (("Sports", 1), 1, [1, 0]),
    ],
)
def test_integers_count_from_0_when_a_0_occurs_else_from_1(
    labels: tuple[str | int, ...], base: int | None, codes: list[int]
) -> None:
    written = table(*labels, classes=NAMES)
    assert label_base(written, NAMES) == base
    assert encode_labels(written, NAMES) == codes


def test_the_count_of_training_holds_for_the_other_tables() -> None:
    assert encode_labels(table(1, 2), NAMES, base=0) == [1, 2]
    assert encode_labels(table("World", "Sports"), NAMES, base=0) == [0, 1]
    with pytest.raises(NewsloraError, match=r"a\.csv:2: unknown label 0; known labels: World, Sports, Business"):
        encode_labels(table(0, 1), NAMES, base=1)


@pytest.mark.parametrize("label", ["world", "Weather", 4, "0.5", -1])
def test_an_unknown_label_is_named_with_its_line(label: str | int) -> None:
    with pytest.raises(NewsloraError) as caught:
        encode_labels(table("World", label, classes=NAMES), NAMES)
    assert str(caught.value) == f"a.csv:3: unknown label {label!r}; known labels: World, Sports, Business"


def test_a_class_named_by_an_integer_is_never_counted_to() -> None:
    # Counted from 1, label 4 would be the class "5".
    with pytest.raises(NewsloraError, match=r"a\.csv:2: unknown label 4; known labels: 1, 2, 3, 5"):
        encode_labels(table(4, 1), ("1", "2", "3", "5"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [(("x", "x"), "every row has the label 'x'"), ((), "has no labels"), ((1, "1"), "every row has")],
)
def test_one_class_is_too_few(labels: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(NewsloraError, match=f"a.csv: {message}"):
        label_names(table(*labels))


def test_a_table_without_labels_cannot_be_encoded() -> None:
    with pytest.raises(NewsloraError, match=r"a\.csv: has no labels; known labels: World"):
        encode_labels(Table("a.csv", ["x"], None, [2], None), NAMES)


@given(st.lists(st.sampled_from(NAMES), min_size=1), st.sampled_from([0, 1]))
def test_names_and_integers_mean_the_same(labels: list[str], base: int) -> None:
    codes = encode_labels(table(*labels), NAMES)
    assert [NAMES[code] for code in codes] == labels
    assert encode_labels(table(*(code + base for code in codes)), NAMES, base) == codes


def test_many_names_are_listed_in_part(tmp_path: Path) -> None:
    names = tuple(f"class {number:03d}" for number in range(500))
    with pytest.raises(NewsloraError, match=r"class 018, class 019, …$"):
        encode_labels(table("x"), names)
