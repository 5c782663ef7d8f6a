"""The page as a person meets it, in a real browser."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect
from tests.serving.stand import TEXTS, Server, serving

from newslora.inference.classifier import NewsClassifier

TOKEN = "a token of many letters"


@pytest.fixture(scope="module")
def server(runs: list[Path]) -> Iterator[Server]:
    with serving(*runs[:3], NEWSLORA_TOKEN=TOKEN) as server:
        yield server


@dataclass
class Opened:
    """A page with all that it said and asked for."""

    page: Page
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def open_page(browser: Browser, server: Server, *, token: str | None = TOKEN, **how: Any) -> Opened:
    context = browser.new_context(**how)
    if token is not None:
        context.add_init_script(f"sessionStorage.setItem('newslora-token', '{token}')")
    opened = Opened(context.new_page())
    opened.page.set_default_timeout(15_000)
    opened.page.on("console", lambda message: opened.faults.append(f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: opened.faults.append(str(error)))
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    opened.page.goto(server.url)
    return opened


@pytest.fixture
def opened(browser: Browser, server: Server) -> Iterator[Opened]:
    opened = open_page(browser, server)
    expect(opened.page.locator("#adapter")).to_be_enabled()
    yield opened
    opened.page.context.close()
    assert not opened.faults
    assert all(url.startswith((server.url, "blob:")) for url in opened.requests)


def bars(page: Page) -> dict[str, str]:
    script = "list => list.map(li => [li.querySelector('.name').textContent, li.querySelector('.share').textContent])"
    return dict(page.locator("#bars li").evaluate_all(script))


def number(share: str) -> float:
    return float(share.removesuffix(" %").lstrip("<> "))


def test_an_article_gets_its_classes_as_bars_and_its_words_weighed(opened: Opened, runs: list[Path]) -> None:
    page = opened.page
    page.get_by_role("textbox", name="Article").fill(TEXTS[0])
    page.get_by_role("button", name="Classify").click()
    [answer] = NewsClassifier.load(runs[0]).predict([TEXTS[0]])
    expect(page.locator("#best")).to_have_text(answer["label"])
    shown = bars(page)
    assert list(shown) == sorted(answer["scores"], key=answer["scores"].get, reverse=True)
    for label, share in answer["scores"].items():
        assert number(shown[label]) == pytest.approx(100 * share, abs=0.11)
    expect(page.locator("#words-note")).to_contain_text("for " + answer["label"])
    assert page.locator("#words").inner_text() == TEXTS[0]
    assert page.locator("#words .for, #words .against").count() > 0
    other = min(answer["scores"], key=answer["scores"].get)
    page.locator("#bars button", has_text=other).click()
    expect(page.locator("#words-title")).to_have_text(f"What spoke for {other}")
    expect(page.locator("#bars button[aria-pressed=true] .name")).to_have_text(other)


def test_another_model_answers_anew(opened: Opened, runs: list[Path]) -> None:
    page = opened.page
    page.get_by_role("textbox", name="Article").fill(TEXTS[3])
    page.keyboard.press("Control+Enter")
    expect(page.locator("#best")).to_have_text(NewsClassifier.load(runs[0]).predict([TEXTS[3]])[0]["label"])
    page.get_by_label("Model").select_option("desk-2")
    expect(page.locator("#best")).to_have_text(NewsClassifier.load(runs[2]).predict([TEXTS[3]])[0]["label"])
    expect(page.locator("#best-note")).to_contain_text("desk-2")
    assert len(bars(page)) == 4


def drop(page: Page, zone: str, name: str, content: str) -> None:
    script = """([name, content]) => { const data = new DataTransfer();
        data.items.add(new File([content], name)); return data; }"""
    data = page.evaluate_handle(script, [name, content])
    page.dispatch_event(zone, "drop", {"dataTransfer": data})


def test_a_dropped_article_is_classified(opened: Opened) -> None:
    drop(opened.page, "#article-form", "article.txt", TEXTS[5])
    expect(opened.page.locator("#best")).to_contain_text("topic 0-")
    assert opened.page.get_by_role("textbox", name="Article").input_value() == TEXTS[5]


def test_a_table_is_classified_sorted_and_downloaded(opened: Opened, runs: list[Path], tmp_path: Path) -> None:
    page = opened.page
    rows = [["id", "Title", "Description"]]
    rows += [[str(i), f'A "quoted", title {i}', TEXTS[i % 40]] for i in range(70)]
    rows[3][1:] = ["<br>", ""]
    with (tmp_path / "news.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    page.get_by_role("tab", name="One article").press("ArrowRight")
    expect(page.get_by_role("tab", name="A table")).to_be_focused()
    page.get_by_label("choose a file").set_input_files(tmp_path / "news.csv")
    expect(page.locator("#file-name")).to_have_text("news.csv, 70 rows")
    expect(page.get_by_label("Title")).to_be_checked()
    expect(page.get_by_label("id", exact=True)).not_to_be_checked()
    page.get_by_label("Title").uncheck()
    page.get_by_label("Title").check()
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#progress-text")).to_contain_text("70 rows in")
    expect(page.locator("#progress")).to_have_js_property("value", 1)
    expect(page.locator("#rows tbody tr")).to_have_count(70)
    texts = [f"{title} {description}" for _, title, description in rows[1:]]
    answers = NewsClassifier.load(runs[0]).predict(["x" if i == 2 else text for i, text in enumerate(texts)])
    page.get_by_role("button", name="Probability").click()
    shares = page.locator("#rows tbody td:last-child").all_inner_texts()
    numbers = [number(share) for share in shares if share]
    assert numbers == sorted(numbers)
    page.get_by_role("button", name="Probability").click()
    assert page.locator("#rows th").nth(3).get_attribute("aria-sort") == "descending"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    assert download.value.suggested_filename == "news-classified.csv"
    with Path(download.value.path()).open(newline="") as file:
        head, *saved = csv.reader(file)
    assert head == ["id", "Title", "Description", "label", "score", "p_topic 0-0", "p_topic 0-1"]
    for i, row in enumerate(saved):
        assert row[:3] == rows[i + 1]
        if i == 2:
            assert row[3:] == ["", "", "", ""]
        else:
            assert row[3] == answers[i]["label"]
            assert float(row[4]) == pytest.approx(answers[i]["score"], abs=1e-4)


def test_a_busy_server_is_waited_for(opened: Opened, tmp_path: Path) -> None:
    page, turned_away = opened.page, []

    def busy(route: Route) -> None:
        if len(turned_away) < 2:
            turned_away.append(route)
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": "too many"})
        else:
            route.fallback()

    page.route("**/v1/classify", busy)
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS[:40]))
    page.get_by_role("tab", name="A table").click()
    page.get_by_label("choose a file").set_input_files(tmp_path / "lines.txt")
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#progress-text")).to_contain_text("The server is busy; going on in 1 s")
    expect(page.locator("#rows tbody tr")).to_have_count(40)
    opened.faults = [fault for fault in opened.faults if "429" not in fault]


def test_errors_are_told_kindly(opened: Opened, server: Server) -> None:
    page, alert = opened.page, opened.page.get_by_role("alert")
    page.get_by_role("button", name="Classify").click()
    expect(alert).to_contain_text("There is no text yet. Please paste an article first.")
    page.get_by_role("textbox", name="Article").fill("<br><br>")
    page.get_by_role("button", name="Classify").click()
    expect(alert).to_contain_text("There is no text in it.")
    page.get_by_role("textbox", name="Article").fill(TEXTS[0])
    page.route("**/v1/classify", lambda route: route.abort())
    page.get_by_role("button", name="Classify").click()
    expect(alert).to_contain_text("The server cannot be reached.")
    page.unroute("**/v1/classify")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#best")).to_contain_text("topic 0-")
    expect(alert).to_be_hidden()
    page.get_by_role("tab", name="A table").click()
    drop(page, "#panel-table", "empty.csv", "title,text\n")
    expect(alert).to_contain_text("empty.csv holds no rows.")
    opened.faults = [fault for fault in opened.faults if "Failed to load resource" not in fault]


def test_a_token_is_asked_for_and_kept(browser: Browser, server: Server) -> None:
    opened = open_page(browser, server, token=None)
    page = opened.page
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("This server asks for a token")
    page.get_by_label("Token", exact=True).fill(TOKEN)
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#adapter option")).to_have_count(3)
    page.reload()
    expect(page.locator("#adapter option")).to_have_count(3)
    expect(dialog).to_be_hidden()
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_both_schemes_and_a_phone_are_sound(
    browser: Browser, server: Server, tmp_path: Path, scheme: Any, width: int
) -> None:
    opened = open_page(browser, server, color_scheme=scheme, viewport={"width": width, "height": 780})
    page = opened.page
    page.get_by_role("textbox", name="Article").fill(" ".join(TEXTS[:4]))
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#words-note")).to_contain_text("topic 0-")
    sound(page)
    page.get_by_role("tab", name="A table").click()
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS))
    page.get_by_label("choose a file").set_input_files(tmp_path / "lines.txt")
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#rows tbody tr")).to_have_count(40)
    drop(page, "#panel-table", "empty.csv", "title,text\n")
    expect(page.get_by_role("alert")).to_be_visible()
    sound(page)
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(int(part) for part in paper[4:-1].split(",")) < 200) == (scheme == "dark")
    assert not opened.faults
    page.context.close()


def sound(page: Page) -> None:
    """Check that nothing is wider than the window, and what axe-core finds."""
    page.wait_for_timeout(700)  # bars have grown
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    found = Axe().run(page).response["violations"]
    assert not [
        (fault["id"], fault["nodes"][0]["html"]) for fault in found if fault["impact"] in ("serious", "critical")
    ]
