import random

import pytest

from newslora import NewsloraError
from newslora.data.columns import find_label, find_text, plain_name
from newslora.data.frame import Frame

WORDS = ["harbour", "council", "striker", "lender", "telescope", "verdict", "export", "keeper", "vaccine", "reef"]


def sentences(count: int, words: int, seed: int = 0) -> list[object]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=words)) + f" {row}" for row in range(count)]


def frame(**columns: list[object]) -> Frame:
    return Frame("a.csv", columns, list(range(2, 2 + len(next(iter(columns.values()))))))


def cycle(*values: object, rows: int = 60) -> list[object]:
    return [values[row % len(values)] for row in range(rows)]


def test_names_are_compared_by_their_letters_and_digits() -> None:
    assert plain_name("Class_Index") == plain_name(" class index ") == "class index"


@pytest.mark.parametrize(
    ("names", "label", "text"),
    [
        (["Class Index", "Title", "Description"], "Class Index", ("Title", "Description")),
        (["text", "label", "label_text"], "label", ("text",)),
        (
            ["category", "headline", "authors", "link", "short_description", "date"],
            "category",
            ("headline", "short_description"),
        ),
        (["content", "topic", "title", "summary"], "topic", ("title", "content")),
        (["label", "headline"], "label", ("headline",)),
    ],
)
def test_known_names_are_found(names: list[str], label: str, text: tuple[str, ...]) -> None:
    table = Frame("a.csv", {name: ["x", "y"] for name in names}, [2, 3])
    assert find_label(table, None) == label
    assert find_text(table, None, label) == text


def test_a_label_name_on_a_column_without_repeats_is_not_believed() -> None:
    table = frame(topic=sentences(60, 5), ressort=cycle("Sport", "Geld", "Welt"))
    assert find_label(table, None) == "ressort"


def test_unknown_names_are_settled_by_content() -> None:
    table = frame(
        nr=list(range(60)),
        ressort=cycle("Sport", "Geld", "Welt", "Kultur", "Technik"),
        kopf=sentences(60, 6, 1),
        rumpf=sentences(60, 30, 2),
        datum=[f"2031-04-{1 + row % 28:02d}" for row in range(60)],
        adresse=[f"https://example.org/a-b-c/{row}" for row in range(60)],
        bezahlt=cycle("true", "false"),
        jahr=cycle(2030, 2031),
    )
    assert find_label(table, None) == "ressort"
    assert find_text(table, None, "ressort") == ("kopf", "rumpf")


def test_integer_labels_are_found_where_no_column_of_words_is() -> None:
    assert find_label(frame(a=sentences(60, 9), b=cycle(0, 1, 2)), None) == "b"


def test_prose_without_blanks_is_prose() -> None:
    table = frame(a=[f"中央銀行は火曜日に金利を据え置いた{row}" for row in range(60)], b=cycle("経済", "国際"))
    assert (find_label(table, None), find_text(table, None, "b")) == ("b", ("a",))


def test_short_texts_are_found_when_nothing_else_is_left() -> None:
    assert find_text(frame(a=[f"w{row}" for row in range(9)], b=[1] * 9), None, "b") == ("a",)


def test_doubt_is_an_error_that_names_the_columns_and_the_setting() -> None:
    table = frame(a=cycle("x", "y"), b=cycle("p", "q", "r"), c=sentences(60, 9))
    with pytest.raises(
        NewsloraError, match=r"a\.csv: the label may be any of a, b \(columns: a, b, c\); name it by --data\.label"
    ):
        find_label(table, None)
    with pytest.raises(NewsloraError, match=r"the text may be any of d, e .*name it by --data\.text"):
        find_text(frame(d=["k1", "k2"], e=["m1", "m2"]), None, None)
    with pytest.raises(NewsloraError, match=r"no text column found among n; name it by --data\.text"):
        find_text(frame(n=[1, 2]), None, None)
    assert find_label(frame(c=sentences(60, 9)), None) is None


def test_given_columns_are_taken_in_the_given_order_or_refused() -> None:
    table = frame(a=["x"], b=["y"], c=["z"])
    assert find_text(table, ["c", "a"], "b") == ("c", "a")
    assert find_label(table, "b") == "b"
    with pytest.raises(NewsloraError, match=r"a\.csv: --data\.text 'd': no such column; there are a, b, c"):
        find_text(table, ["a", "d"], None)
    with pytest.raises(NewsloraError, match=r"a\.csv: --data\.label 'd': no such column; there are a, b, c"):
        find_label(table, "d")
