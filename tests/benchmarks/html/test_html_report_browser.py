"""What the page of `segkit report DIR --html` promises in a browser: headless Chromium, from a file, offline."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

ROOT = Path(__file__).parents[3]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"

FLAGS = (
    "--no-sandbox",
    "--enable-unsafe-swiftshader",  # WebGL 2 where no graphics card is
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium, which is not installed; run: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, page_file: Path) -> Iterator[Open]:
    """Opens the page offline; at the end, nothing was asked of a network and the console has no error."""
    requests: list[str] = []
    errors: list[str] = []
    contexts = []

    def on_request(request: Request) -> None:
        requests.append(request.url)

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    def open_(width: int = 1280, height: int = 900, **settings: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **settings)
        contexts.append(context)
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.on("request", on_request)
        page.on("console", on_console)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_file.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "blob", "data"}


def column(page: Page, index: int) -> list[str]:
    """Texts of a column of the second table, the one of inference."""
    texts: list[str] = (
        page.locator("#table1 table")
        .nth(1)
        .evaluate("(table, at) => [...table.tBodies[0].rows].map((row) => row.cells[at].firstChild.textContent)", index)
    )
    return texts


def figures(texts: list[str]) -> list[float]:
    return [float(text.replace(",", "")) for text in texts if text[0].isdigit()]


def test_the_first_paint_comes_within_a_second_from_disk(open_page: Open) -> None:
    paints = "performance.getEntriesByType('paint').find((entry) => entry.name === 'first-contentful-paint')?.startTime"
    times = []
    for _ in range(3):  # the best of three: other tests run beside this one
        page = open_page()
        page.wait_for_load_state("load")
        page.screenshot()
        times.append(page.evaluate(paints))
    assert 0 < min(times) < 1000


def test_a_click_sorts_by_figures_and_a_second_one_the_other_way(open_page: Open) -> None:
    page = open_page()
    heading = page.locator("#table1 table").nth(1).locator("thead tr").last.locator("th").nth(7)
    assert heading.inner_text().startswith("p50")
    before = column(page, 7)
    assert figures(before) != sorted(figures(before))
    heading.locator("button").click()
    up = column(page, 7)
    assert heading.get_attribute("aria-sort") == "ascending"
    assert figures(up) == sorted(figures(before))
    heading.locator("button").click()
    down = column(page, 7)
    assert heading.get_attribute("aria-sort") == "descending"
    assert figures(down) == sorted(figures(before), reverse=True)
    reasons = len(before) - len(figures(before))
    assert reasons == 9
    for texts in (up, down):
        assert not figures(texts[-reasons:])


def test_a_key_sorts_by_words_and_only_one_column_is_said_to_be_sorted(open_page: Open) -> None:
    page = open_page()
    headings = page.locator("#table1 table").nth(1).locator("thead tr").last.locator("th")
    headings.nth(7).locator("button").press("Enter")
    headings.nth(1).locator("button").press("Space")
    runtimes = column(page, 1)
    assert runtimes == sorted(runtimes)
    said = [heading.get_attribute("aria-sort") for heading in headings.all()]
    assert [index for index, sort in enumerate(said) if sort] == [1]


def test_the_viewer_draws_and_its_switches_change_what_is_drawn(open_page: Open) -> None:
    page = open_page(800, 700)
    box = page.locator("#viewer-box")
    assert "ready" not in str(box.get_attribute("class"))
    page.evaluate("document.getElementById('viewer-box').scrollIntoView({ behavior: 'instant' })")
    page.locator("#viewer-box.ready").wait_for()
    canvas = page.locator("#viewer-canvas")

    def pixels() -> Any:
        page.wait_for_timeout(300)
        return np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)

    page.get_by_role("checkbox", name="prediction").uncheck()
    grey = pixels()
    assert grey.std() > 10
    assert grey.max() > 150
    colourful = np.ptp(grey, axis=-1) > 40
    page.get_by_role("checkbox", name="truth").check()
    labelled = pixels()
    assert (np.ptp(labelled, axis=-1) > 40).sum() > colourful.sum() + 500
    page.get_by_role("slider", name="opacity").fill("0")
    np.testing.assert_allclose(pixels(), grey, atol=2)
    page.get_by_role("slider", name="foot to head").fill("300")
    assert (np.abs(pixels() - grey).max(-1) > 20).mean() > 0.005
    page.get_by_role("radio", name="3D", exact=True).check()
    volume = pixels()
    assert volume.std() > 5
    assert (np.abs(volume - grey).max(-1) > 20).mean() > 0.05


def test_without_webgl_the_picture_stays_and_the_reason_is_said(open_page: Open) -> None:
    page = open_page()
    page.evaluate("HTMLCanvasElement.prototype.getContext = () => null")
    page.evaluate("document.getElementById('viewer-box').scrollIntoView({ behavior: 'instant' })")
    page.locator("#viewer-box.still").wait_for()
    assert "could not be opened here: Unable to initialize WebGL2" in page.locator("#viewer-status").inner_text()
    assert page.locator(".stage img").is_visible()
    assert page.locator(".controls fieldset").first.is_hidden()


def test_a_phone_scrolls_down_and_never_sideways(open_page: Open) -> None:
    page = open_page(360, 740, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wide = page.locator(".scroll").first
    assert wide.evaluate("(box) => box.scrollWidth > box.clientWidth")
    wide.evaluate("(box) => box.scrollTo(400, 60)")
    first, heading = wide.locator("tbody th").first, wide.locator("thead")
    left, top = (wide.bounding_box() or {}).get("x", 0), (wide.bounding_box() or {}).get("y", 0)
    assert abs((first.bounding_box() or {}).get("x", 0) - left) < 3
    assert abs((heading.bounding_box() or {}).get("y", 0) - top) < 3


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_axe_finds_nothing_against_wcag_aa(open_page: Open, width: int, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip("needs axe-core, which is not installed; run: npm ci --ignore-scripts")
    page = open_page(width, 800, color_scheme=scheme, reduced_motion="reduce")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = page.evaluate("(values) => axe.run(document, { runOnly: { type: 'tag', values } })", tags)
    assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found["violations"]] == []
    assert len(found["passes"]) > 20


def test_who_wants_no_motion_gets_none_and_the_keyboard_shows_where_it_is(open_page: Open) -> None:
    page = open_page(reduced_motion="reduce")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("(link) => document.activeElement === link && getComputedStyle(link).outlineStyle") == "solid"
    assert (skip.bounding_box() or {}).get("x") == 0


def test_every_picture_is_drawn_and_on_a_phone_it_is_scrolled_where_it_stands(open_page: Open) -> None:
    page = open_page(360, 740, has_touch=True, is_mobile=True)
    pictures = page.locator("#pictures img")
    assert pictures.count() == 4
    for picture in pictures.all():
        assert picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 400
        assert picture.evaluate("(image) => image.parentElement.scrollWidth > image.parentElement.clientWidth")


def test_on_paper_all_notes_are_open_and_nothing_is_cut_off(open_page: Open) -> None:
    page = open_page()
    page.emulate_media(media="print")
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    assert page.locator("nav").is_hidden()
    assert page.locator(".notes details:not([open])").count() == 0
    assert page.locator(".scroll").first.evaluate("(box) => getComputedStyle(box).overflow") == "visible"
    assert page.locator(".stage img").is_visible()
