from newslora.data.leaks import example, find_leaks


def test_rows_on_both_sides_are_counted_with_both_places() -> None:
    train = ["Oil is up.", "The cup final", "oil is UP"]
    test = ["oil, is up", "Something else", "OIL IS UP!", "the cup final"]
    report = find_leaks(test, [f"t:{i}" for i in range(4)], train, [f"a:{i}" for i in range(3)])
    assert report["rows"] == 3
    assert report["examples"] == [
        {"place": "t:0", "text": "oil, is up", "also": "a:0"},
        {"place": "t:2", "text": "OIL IS UP!", "also": "a:0"},
        {"place": "t:3", "text": "the cup final", "also": "a:1"},
    ]


def test_examples_are_few_and_short() -> None:
    texts = ["long " * 100 + str(i) for i in range(9)]
    report = find_leaks(texts, [str(i) for i in range(9)], texts, [str(i) for i in range(9)])
    assert (report["rows"], len(report["examples"])) == (9, 3)
    assert all(len(row["text"]) == 160 for row in report["examples"])


def test_a_short_text_is_shown_whole() -> None:
    assert example("a", "b:1") == {"place": "b:1", "text": "a"}
