"""The report as a person meets it: opened from a disk in a real browser, offline."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from tests.evaluation.reported import HARM, LABEL, evaluate, make_harmful_run, make_reported_run

from newslora.training.run_folder import RunFolder

CHARTS = ("loss", "accuracy", "reliability", "confidences", "coverage")
DRAWN = """name => {
    const canvas = document.querySelector(`#${name} canvas`);
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.filter((value, at) => at % 4 === 3 && value > 0).length;
}"""
SHOWN = (
    "table => [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => ({...row.dataset, text: row.innerText}))"
)


@dataclass
class Opened:
    """A page with all that it said and asked for."""

    page: Page
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, str]]:
        """Return the articles that are shown."""
        shown: list[dict[str, str]] = self.page.locator("#rows").evaluate(SHOWN)
        return shown


@pytest.fixture(scope="module")
def run(small_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_reported_run(small_run, tmp_path_factory.mktemp("reported") / "my-run")


def open_report(browser: Browser, run: RunFolder, **how: Any) -> Opened:
    page = browser.new_context(offline=True, **how).new_page()
    opened = Opened(page)
    page.on("console", lambda message: opened.faults.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: opened.faults.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(run.report.as_uri())
    return opened


@pytest.fixture
def opened(browser: Browser, run: RunFolder) -> Iterator[Opened]:
    opened = open_report(browser, run)
    yield opened
    opened.page.context.close()


def outside(opened: Opened) -> list[str]:
    """Return what was asked for beside the page itself and what it holds."""
    return [url for url in opened.requests[1:] if not url.startswith("data:")]


def test_nothing_goes_wrong_and_nothing_leaves_the_page(opened: Opened, run: RunFolder) -> None:
    opened.page.mouse.wheel(0, 20_000)
    opened.page.wait_for_timeout(200)
    assert opened.faults == []
    assert opened.requests[0] == run.report.as_uri()
    assert outside(opened) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_is_drawn(browser: Browser, run: RunFolder, scheme: str) -> None:
    opened = open_report(browser, run, color_scheme=scheme)
    for name in CHARTS:
        assert opened.page.evaluate(DRAWN, name) > 2000, name
    assert opened.page.locator("canvas").count() == len(CHARTS)
    opened.page.context.close()


def test_charts_change_with_the_scheme(opened: Opened) -> None:
    light = opened.page.locator("#loss canvas").evaluate("canvas => canvas.toDataURL()")
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function("light => document.querySelector('#loss canvas').toDataURL() !== light", arg=light)
    assert opened.faults == []


def test_a_chart_tells_its_values_to_mouse_and_keyboard(opened: Opened) -> None:
    chart = opened.page.locator("#accuracy")
    values = chart.locator(".u-value")
    assert values.all_inner_texts() == ["–", "–", "–"]
    chart.locator(".u-over").hover(position={"x": 400, "y": 50})
    assert values.all_inner_texts() == ["2", "70%", "75%"]
    opened.page.mouse.move(0, 0)
    chart.focus()
    opened.page.keyboard.press("ArrowRight")
    assert values.all_inner_texts() == ["1", "70%", "75%"]
    opened.page.keyboard.press("ArrowRight")
    assert values.first.inner_text() == "2"


def test_the_table_opens_with_the_hardest_and_shows_more(opened: Opened) -> None:
    losses = [float(row["loss"]) for row in opened.rows()]
    assert len(losses) == 25
    assert losses == sorted(losses, reverse=True)
    opened.page.get_by_role("button", name="Show more").click()
    assert len(opened.rows()) == 50
    assert opened.page.get_by_role("status").inner_text() == "50 of 160 articles shown"


def test_the_table_filters(opened: Opened) -> None:
    page = opened.page
    page.get_by_label("Search").fill("HARBOUR")
    found = opened.rows()
    assert 0 < len(found) < 25
    assert all("harbour" in row["text"].lower() for row in found)
    page.get_by_label("Search").fill("no such words")
    assert opened.rows() == []
    page.get_by_role("button", name="Reset").click()
    page.locator("#label").select_option("Business")
    assert {row["label"] for row in opened.rows()} == {"Business"}
    page.locator("#predicted").select_option("Sports")
    assert {row["predicted"] for row in opened.rows()} <= {"Sports"}
    page.get_by_role("button", name="Reset").click()
    assert "of 160" in page.get_by_role("status").inner_text()


def test_the_most_suspicious_lead_against_their_label(opened: Opened) -> None:
    opened.page.get_by_role("radio", name="Most suspicious").check()
    rows = opened.rows()
    leads = [float(row["lead"]) for row in rows]
    assert leads == sorted(leads, reverse=True)
    assert all(row["label"] != row["predicted"] for row in rows)


def test_the_table_sorts_by_each_column_and_back(opened: Opened) -> None:
    for title, key in (("line", "place"), ("confidence", "confidence"), ("loss", "loss")):
        head = opened.page.get_by_role("columnheader", name=title, exact=True)
        for _ in range(2):
            head.get_by_role("button").click()
            values = [float(row[key]) for row in opened.rows()]
            assert values == sorted(values, reverse=head.get_attribute("aria-sort") == "descending")
    opened.page.get_by_role("columnheader", name="label", exact=True).get_by_role("button").click()
    assert {row["label"] for row in opened.rows()} == {"Business"}


def test_a_confusion_shows_its_articles_by_keyboard(opened: Opened, run: RunFolder) -> None:
    matrix = evaluate(run)["confusion_matrix"]
    cell = opened.page.locator("#confusion button[data-label=World][data-predicted=Sports]")
    cell.focus()
    assert (
        f"{matrix[0][1]} articles labelled World were predicted Sports" in opened.page.locator("#readout").inner_text()
    )
    opened.page.keyboard.press("Enter")
    assert [(row["label"], row["predicted"]) for row in opened.rows()] == [("World", "Sports")] * matrix[0][1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser: Browser, run: RunFolder, scheme: str) -> None:
    opened = open_report(browser, run, color_scheme=scheme)
    for summary in opened.page.locator("summary").all():
        summary.click()
    found = Axe().run(opened.page).response["violations"]
    grave = [
        f"{fault['id']}: {node['target']} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
    assert grave == []
    opened.page.context.close()


def test_text_of_a_row_neither_runs_nor_loads(
    browser: Browser, small_run: RunFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    harmful = make_harmful_run(small_run, tmp_path_factory.mktemp("harmful") / "my-run")
    opened = open_report(browser, harmful)
    for summary in opened.page.locator("summary").all():
        summary.click()
    assert opened.page.evaluate("window.harmed") is None
    assert (opened.faults, outside(opened)) == ([], [])
    assert HARM in opened.page.locator("#rows td.text").first.inner_text()
    assert LABEL in opened.page.locator("#confusion").inner_text()
    for name in CHARTS:
        assert opened.page.evaluate(DRAWN, name) > 2000
    opened.page.context.close()


def test_the_policy_stops_what_escaping_would_miss(browser: Browser, run: RunFolder, tmp_path: Path) -> None:
    evil = "<script>window.harmed = 1</script><img src='https://example.com/x.png'></main>"
    page = tmp_path / "page.html"
    page.write_text(run.report.read_text(encoding="utf-8").replace("</main>", evil), encoding="utf-8")
    opened = open_report(browser, run)
    opened.page.goto(page.as_uri())
    assert opened.page.evaluate("window.harmed") is None
    assert len([fault for fault in opened.faults if "Content Security Policy" in fault]) == 2
    opened.page.context.close()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(browser: Browser, run: RunFolder, width: int) -> None:
    opened = open_report(browser, run, viewport={"width": width, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.context.close()


def test_it_prints_on_paper_in_light_colours(browser: Browser, run: RunFolder) -> None:
    opened = open_report(browser, run, color_scheme="dark")
    pdf = opened.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    opened.page.emulate_media(media="print")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not opened.page.locator("nav").is_visible()
    assert not opened.page.locator("#controls").is_visible()
    assert opened.page.evaluate("getComputedStyle(document.body).color") == "rgb(34, 37, 42)"
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.evaluate("document.documentElement.dataset.paper") is None
    opened.page.context.close()
