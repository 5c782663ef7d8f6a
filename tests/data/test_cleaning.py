import json
import time
from pathlib import Path

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newslora import NewsloraError
from newslora.data.cleaning import _CONTROL, Cleaner

DEBRIS = st.sampled_from(
    (
        *(" #39;", "&#39;", " quot;", "&amp;", " amp;", "lt;", "&lt;", "&gt;", "#36;", "#x2014;", "&amp;lt;", "nbsp;"),
        *("<b>", "</b", "<A HREF='x", ">", "<!--", "-->", "\\", "\\$", "http://a.b/c", "www.", "&NTILDE;"),
        *("(Reuters)", "AP -", "-AP", " - ", "(R(AP)euters)", "\ud83d", "\ufeff", "ﬁ", "Ã©", "â€™"),
        *("\x00", "\x1b[0m", "\u3000", "\r\n", "e\u0301"),
    )
)
DIRTY = st.lists(st.one_of(DEBRIS, st.text(max_size=4)), max_size=25).map("".join)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("The firm #39;s plan to  #39;grow #39; fast", "The firm's plan to 'grow' fast"),
        ("called it a  quot;fair result quot; for both", 'called it a "fair result" for both'),
        ("Marrow  amp; Vale and T amp;K Corp.", "Marrow & Vale and T&K Corp."),
        ("fell to  #36;50, or  #163;27, a barrel", "fell to $50, or £27, a barrel"),
        ("won #151; barely #x2014; again", "won— barely— again"),
        ("last week's nbsp;launch nbsp;by the agency", "last week's launch by the agency"),
        ("ranked #12; then #3; won game #1", "ranked #12; then #3; won game #1"),
        ("The win; sales; up; gold; copy; that", "The win; sales; up; gold; copy; that"),
        ("talks end in &lt;b&gt;...&lt;/b&gt; silence", "talks end in ... silence"),
        ("&amp;lt;b&amp;gt;Deal&amp;lt;/b&amp;gt; &amp;amp; more", "Deal & more"),
        ('Vale &lt;A HREF="http://x.example/q?t=V target=/s"&gt;V.N&lt;/A&gt; rose', "Vale V.N rose"),
        ("one<br>two<P>three</p>four<!-- note -->five", "one two three four five"),
        ("cut short <a href='http://x.example/long", "cut short"),
        ("a <3 b, x <y and z> 2, <nobody>", "a <3 b, x <y and z> 2, <nobody>"),
        ("prices were softer\\on Monday \\after a break\\\\again", "prices were softer on Monday after a break again"),
        ('a \\$1.35 million \\"deal\\"', 'a $1.35 million "deal"'),
        ("see http://x.example/a?b=1&c=2, or (www.y.example/z).", "see , or ( )."),
        ("  double  spaces\tand\nlines\u3000here ", "double spaces and lines here"),
        ("the cafÃ© wonâ€™t close", "the café won't close"),
        ("control\x07 and \x1b[31mcolour\x1b[0m", "control and colour"),
        ("half \ud83d a pair", "half \ufffd a pair"),
        ("HARBOUR (Reuters) - AP - Ships sail", "HARBOUR (Reuters) - AP - Ships sail"),
        ("", ""),
    ],
)
def test_repairs(dirty: str, clean: str) -> None:
    assert Cleaner().repair(dirty) == clean


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("Ships Sail Again (AP) AP - Captain Orla Venn left port.", "Ships Sail Again Captain Orla Venn left port."),
        ("(Reuters) - Ships sailed.", "Ships sailed."),
        ("NEW YORK (Reuters) - The dollar rose.", "NEW YORK - The dollar rose."),
        ("OSLO (Dow Jones)--Shares fell.", "OSLO --Shares fell."),
        ("A new lens &lt;B&gt;-washingtonpost.com&lt;/B&gt;", "A new lens"),
        ("Reuters said it hired AP staff - again", "Reuters said it hired AP staff - again"),
    ],
)
def test_agencies_are_dropped_when_asked(dirty: str, clean: str) -> None:
    assert Cleaner(drop_agency=True).repair(dirty) == clean


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(st.text(), DIRTY), drop=st.booleans())
def test_repair_is_idempotent(text: str, drop: bool) -> None:
    cleaner = Cleaner(drop)
    repaired = cleaner.repair(text)
    assert cleaner.repair(repaired) == repaired
    repaired.encode()  # no half of a surrogate pair is left for the tokenizer to choke on


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(max_codepoint=127)))
def test_ftfy_may_be_spared_plain_ascii(text: str) -> None:
    if not _CONTROL.search(text):
        assert ftfy.fix_text(text, unescape_html=False) == text


@pytest.mark.parametrize(
    "nested",
    [
        "&" + "amp;" * 60_000 + "lt;",
        "<a " * 50_000 + ">" * 50_000,
        "&" * 99_999 + "#38;",
        "(R" * 50_000 + "euters)" * 50_000,
        "<!--" * 50_000,
        "http://" * 40_000,
        "www." + "." * 99_999,
        "\\" * 99_999,
        " #39" * 50_000,
        "<b " * 80_000,
        " -AP" * 50_000,
    ],
)
def test_what_is_made_to_nest_neither_hangs_nor_stays_unsettled(nested: str) -> None:
    start = time.perf_counter()
    cleaner = Cleaner(drop_agency=True)
    repaired = cleaner.repair(nested)
    assert cleaner.repair(repaired) == repaired
    assert time.perf_counter() - start < 5


def test_json_round_trip(tmp_path: Path) -> None:
    for cleaner in (Cleaner(), Cleaner(drop_agency=True)):
        cleaner.save(tmp_path / "cleaner.json")
        assert Cleaner.load(tmp_path / "cleaner.json") == cleaner


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as a cleaner"),
        ("{", "cannot be read as a cleaner"),
        ("[" * 60_000, "cannot be read as a cleaner"),
        ("\xff", "is no cleaner"),
        ("[]", "is no cleaner; expected an object with version, drop_agency"),
        ('{"drop_agency": true}', "is no cleaner"),
        ('{"version": 1, "drop_agency": true, "run": "x"}', "is no cleaner"),
        ('{"version": 2, "drop_agency": true}', "version 2 of the repair is unknown; expected 1"),
        ('{"version": true, "drop_agency": true}', "version True of the repair is unknown"),
        ('{"version": 1, "drop_agency": 1}', "drop_agency is 1; expected true or false"),
        (json.dumps({"version": 1, "drop_agency": "x" * (1 << 17)}), "cannot be read as a cleaner"),
    ],
)
def test_a_strangers_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cleaner.json"
    path.write_text(json.dumps(text) if text == "\xff" else text)
    with pytest.raises(NewsloraError) as caught:
        Cleaner.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="cannot be read as a cleaner \\(No such file"):
        Cleaner.load(tmp_path / "cleaner.json")
