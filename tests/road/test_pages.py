"""The pages that the road writes, in a real browser: whole, quiet, and with the figures of the record beside them."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from test_load import load_of, page_of

from medserve.data.phantoms import make_phantoms
from medserve.road.inspect import inspect_data

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
HEADLINE = {"AUROC": "auroc", "Accuracy": "accuracy", "Sensitivity": "sensitivity", "Specificity": "specificity"}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium on this machine"),
]


@dataclass
class Seen:
    """An opened page, and what the browser said and asked for while it loaded."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri(), wait_until="load")
        self.page.evaluate("() => Promise.all([...document.images].map(i => i.decode()))")

    def widths(self) -> list[int]:
        return self.page.evaluate("() => [...document.images].map(i => i.naturalWidth)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = next(found for name in BROWSERS if (found := shutil.which(name)))
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def seen(browser) -> Iterator[Seen]:
    page = browser.new_page()
    seen = Seen(page)
    page.on("console", lambda message: seen.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.said.append(str(error)))
    page.on("request", lambda request: seen.asked.append(request.url))
    yield seen
    page.close()


def whole_and_quiet(seen: Seen, path: Path) -> None:
    """Nothing on the console, nothing asked for but the file itself, every picture decoded, no box wider than the
    window."""
    seen.open(path)
    assert seen.said == []
    assert [url for url in seen.asked if not url.startswith("data:")] == [path.as_uri()]
    assert seen.widths() and all(width > 0 for width in seen.widths())
    assert seen.page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    assert seen.page.evaluate("() => [...document.images].every(i => i.alt.trim())")


def test_the_report_shows_the_figures_of_the_record(run, seen):
    """Headline tiles and the table of metrics equal evaluation/test.json, to the digits shown."""
    folder = run.package / "evaluation"
    whole_and_quiet(seen, folder / "report.html")
    metrics = json.loads((folder / "test.json").read_text())["metrics"]
    head = [line.strip() for line in seen.page.inner_text("header").splitlines() if line.strip()]
    for title, name in HEADLINE.items():
        at = head.index(title)
        value, low, high = (metrics[name][key] for key in ("value", "low", "high"))
        assert head[at + 1] == f"{value:.3f}" and head[at + 2] == f"95% interval {low:.3f} to {high:.3f}"
    rows = seen.page.locator("table.metrics").first.locator("tbody tr").all_inner_texts()
    assert len(rows) >= len(metrics)
    for row, metric in zip(rows, metrics.values(), strict=False):
        assert metric["value"] is None or f"{abs(metric['value']):.3f}" in row, row


def test_the_report_is_read_on_a_telephone_and_without_scripts(run, browser):
    """A narrow window scrolls down only, and the page needs no script."""
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto((run.package / "evaluation" / "report.html").as_uri(), wait_until="load")
    assert page.locator("h2").count() >= 8 and "Not clinically validated" in page.inner_text("body")
    box = page.locator("main").bounding_box()
    assert box is not None and box["width"] <= 390
    context.close()


def test_the_page_of_a_load_test_shows_its_figures(seen, tmp_path):
    """Capacity, the percentiles of each level and what was refused; four pictures, nothing wider than the window."""
    page_of(tmp_path / "load.html", load_of(answered=80))
    whole_and_quiet(seen, tmp_path / "load.html")
    cards = seen.page.locator(".card").all_inner_texts()
    assert "60.0/s" in cards[0] and "4 ms" in cards[2] and "20.0 %" in cards[3]
    rows = seen.page.locator("#load tbody tr").all_inner_texts()
    assert len(rows) == 5 and all("80\t20\t0\t0" in row for row in rows)
    assert len(seen.widths()) == 4


def test_the_page_of_inspect_shows_its_record(run, seen, tmp_path):
    """Counts equal the record, the picture sheet loads, and the refused file is named."""
    data = make_phantoms(tmp_path / "films", 40, size=32, seed=8)
    broken = sorted(data.glob("images/*.dcm"))[0]
    broken.write_bytes(broken.read_bytes()[:-200])
    result, _ = inspect_data(data, settings=run.settings, page=tmp_path / "sheet.html")
    whole_and_quiet(seen, tmp_path / "sheet.html")
    tiles = seen.page.locator(".tile").all_inner_texts()
    counts = {text.split("\n")[-1].strip(): text.split("\n")[0].strip() for text in tiles}
    assert counts["files"] == str(result["files"]) and counts["cases"] == str(result["cases"]) == "39"
    assert counts["refused"] == str(len(result["refused"])) == "1"
    shown = seen.page.inner_text("body")
    assert broken.name in shown and result["refused"][0]["code"] in shown
    assert all(name in shown for name in result["parts"])
