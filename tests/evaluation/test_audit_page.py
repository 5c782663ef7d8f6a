"""The audit's page as a person meets it: opened from a disk in a real browser, offline."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from newslora.data.audit_file import Verdict
from newslora.evaluation.audit import Audit
from newslora.evaluation.audit_page import MOST_GROUPS, MOST_ROWS, write_page

HARM = '<script>alert(1)</script><img src="http://127.0.0.1/x">'
NAMES = ("World", "Sports", "Sci/Tech")


def verdict(place: int, label: str, suggested: str, score: float) -> Verdict:
    text = f"{HARM} row {place}" if place == 3 else f"Harbour story number {place}"
    return Verdict(place, label, suggested, score, score >= 0.5, (f"the model sees {suggested}", "of its 50 …"), text)


def make_audit(rows: int = 130, groups: int = 1) -> Audit:
    verdicts = [verdict(i + 2, NAMES[i % 3], NAMES[(i + 1 + i // 60) % 3], 1 - i / rows) for i in range(rows)]
    summary = {"rows": rows, "flagged": 61, "estimated_wrong": 55, "conflicts": groups, "how": "the table alone"}
    return Audit("data/news.csv", NAMES, verdicts, [verdicts[:2]] * groups, summary | {"trained_on": 7})


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[tuple[Page, list[str]]]:
    page, said = browser.new_context(offline=True).new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(write_page(make_audit(), tmp_path / "audit.html").as_uri())
    yield page, said
    page.context.close()


def shown(page: Page) -> list[str]:
    rows: list[str] = page.locator("#rows tbody tr:visible").all_inner_texts()
    return rows


def test_nothing_goes_wrong_runs_or_leaves_the_page(opened: tuple[Page, list[str]]) -> None:
    page, said = opened
    assert [url for url in said[1:] if not url.startswith("data:")] == []
    assert HARM in shown(page)[1] and page.locator("main img, main script").count() == 0
    overview = page.locator("#overview").inner_text()
    assert all(part in overview for part in ("news.csv", "130", "61", "55", "the table alone", "7"))


def test_the_table_filters_and_grows(opened: tuple[Page, list[str]]) -> None:
    page = opened[0]
    assert len(shown(page)) == 50 and "50 of 130 rows shown" in page.locator("#status").inner_text()
    page.get_by_role("button", name="Show more").click()
    assert len(shown(page)) == 100
    page.get_by_label("Label").select_option("Sports")
    assert len(shown(page)) == 43 and page.locator("#more").is_hidden()
    page.get_by_label("Suggested").select_option("Sci/Tech")
    assert 0 < len(shown(page)) < 43
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#status")).to_contain_text("50 of 130")
    page.get_by_label("Search").fill("NUMBER 77")
    assert len(shown(page)) == 1 and "Harbour story number 77" in shown(page)[0]


def test_near_duplicates_are_listed(opened: tuple[Page, list[str]]) -> None:
    text = opened[0].locator("#conflicts").inner_text()
    assert "Harbour story number 2" in text and "World" in text and "Sports" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_accessibility_fault(browser: Browser, tmp_path: Path, scheme: str) -> None:
    page = browser.new_context(offline=True, color_scheme=scheme).new_page()
    page.goto(write_page(make_audit(), tmp_path / "audit.html").as_uri())
    faults = Axe().run(page).response["violations"]
    page.context.close()
    assert [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in faults] == []


def test_a_large_audit_makes_a_page_of_its_beginning(tmp_path: Path) -> None:
    page = write_page(make_audit(MOST_ROWS + 500, MOST_GROUPS + 20), tmp_path / "audit.html").read_text()
    assert f"The first {MOST_ROWS:,} of {MOST_ROWS + 500:,} rows" in page
    assert page.count("<tr data-label") == MOST_ROWS
    assert f"The first {MOST_GROUPS} of {MOST_GROUPS + 20} groups" in page
