"""The dashboard in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flask_eventcollector.monitoring.columns import COLUMNS
from tests.browser import open_chromium, serving
from tests.helpers import DEADLINE, wait_until

from .support import Desk, open_desk
from .test_overview import other as write_counts

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

#: Very long, as a queue that is named after a host and a user may be.
LONG = "orders." + "x" * 200


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk({"show_payloads": True}, HISTORY_DIR=str(tmp_path)) as desk:
        yield desk


@pytest.fixture
def address(desk: Desk) -> Iterator[str]:
    with serving(desk.shop) as root:
        yield f"{root}eventcollector/"


def opened(chromium: Browser, address: str, **options: Any) -> Iterator[Page]:
    """A page; the test fails if the browser objects to anything."""
    options = {"viewport": {"width": 1200, "height": 900}} | options
    context = chromium.new_context(**options)
    page = context.new_page()
    objections: list[str] = []
    page.on("pageerror", lambda error: objections.append(str(error)))
    page.on(
        "console",
        lambda said: objections.append(said.text) if said.type != "log" else None,
    )
    page.goto(address)
    yield page
    context.close()
    assert objections == []


@pytest.fixture
def page(chromium: Browser, address: str) -> Iterator[Page]:
    yield from opened(chromium, address)


@pytest.fixture
def plain(chromium: Browser, address: str) -> Iterator[Page]:
    """A page without JavaScript, on a phone."""
    yield from opened(
        chromium,
        address,
        java_script_enabled=False,
        viewport={"width": 400, "height": 800},
    )


def filter_by(page: Page, target: str) -> None:
    page.get_by_role("link", name="All events").click()
    page.get_by_label("Target").fill(target)
    page.get_by_role("button", name="Filter").click()


def expect_rows(page: Page, count: int) -> None:
    from playwright.sync_api import expect

    expect(page.locator("tbody tr")).to_have_count(count, timeout=DEADLINE * 1000)


def purge_one(page: Page) -> None:
    page.get_by_role("checkbox", name="Choose").first.check()
    page.get_by_role("button", name="Purge").click()
    page.get_by_role("heading", name="Drop 1 event for good?").wait_for()
    page.get_by_role("button", name="Purge").click()
    page.get_by_role("heading", name="1 event dropped").wait_for()


def test_an_operator_finds_retries_moves_and_purges(desk: Desk, page: Page) -> None:
    for number in range(3):
        desk.die(number, "orders")
    desk.die(9, "bills")
    filter_by(page, "orders")
    expect_rows(page, 3)

    desk.shop.faults.accept("orders")
    page.locator("tbody input").first.check()
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("heading", name="1 event sent again").wait_for()
    wait_until(lambda: desk.shop.sent("orders") == [0], "it is sent")

    filter_by(page, "orders")
    page.locator("tbody input").first.check()
    page.get_by_label("Another queue").fill("other")
    page.get_by_label("Another queue").press("Enter")
    page.get_by_role("button", name="Send there").click()
    page.get_by_role("heading", name="1 event sent to other").wait_for()
    wait_until(lambda: desk.shop.sent("other") == [1], "it is sent")

    filter_by(page, "orders")
    page.get_by_label("Choose all on this page").check()
    purge_one(page)
    assert desk.shop.books() == {"confirmed": 2, "dead": 1, "dropped": 1}


def test_it_works_without_javascript(desk: Desk, plain: Page) -> None:
    desk.die(1, "orders")
    plain.get_by_role("link", name="Refresh").click()
    plain.locator(".tile.failing dd", has_text=re.compile("^1$")).first.wait_for()
    plain.get_by_role("link", name="orders").click()
    purge_one(plain)
    assert desk.shop.books() == {"dropped": 1}


@pytest.mark.slow
def test_the_page_is_brought_up_to_date_while_it_is_seen(
    desk: Desk, page: Page
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    desk.die()
    page.locator(".tile.failing dd", has_text="1").wait_for()
    # A page in the background asks for nothing.
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    asked.clear()
    page.wait_for_timeout(2500)
    assert asked == []
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: false});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    with page.expect_request("**/live"):
        pass
    page.get_by_role("button", name="Pause updates").click()
    assert page.get_by_role("button", name="Resume updates").is_visible()


def test_an_app_that_hangs_is_told(page: Page) -> None:
    """Instead of showing old numbers for as long as it does."""
    page.route("**/live", lambda route: None)
    page.add_init_script(
        "const timeout = AbortSignal.timeout;"
        "AbortSignal.timeout = (ms) => timeout.call(AbortSignal, ms / 100);"
    )
    page.reload()
    page.get_by_text("No answer from the app: trying again").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_sticks_out_and_all_can_be_read(
    desk: Desk, chromium: Browser, address: str, scheme: Any, width: int
) -> None:
    desk.die({"x" * 300: LONG}, LONG)
    desk.leave(1, "q")
    event = desk.die(2, LONG)
    size = {"width": width, "height": 800}
    for page in opened(chromium, address, color_scheme=scheme, viewport=size):
        for path in ("", "events", f"event?id={event.id}&payload=1"):
            page.goto(address + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert _worst_contrast(page) >= 4.5
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        is_dark = sum(map(int, background[4:-1].split(","))) < 200
        assert is_dark == (scheme == "dark")


def test_nothing_sticks_out_at_any_width(
    desk: Desk, chromium: Browser, address: str, tmp_path: Path
) -> None:
    """320 pixels are 1280 at a zoom of 400 %."""
    desk.die(1, LONG)
    books = dict.fromkeys(COLUMNS, 123456)
    write_counts(tmp_path, 1, **books)
    for page in opened(chromium, address):
        for width in (320, 600, 800, 1000, 1200):
            page.set_viewport_size({"width": width, "height": 800})
            for path in ("", "events"):
                page.goto(address + path)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
    # What is too wide is scrolled, also by the keyboard, and stays up to date.
    write_counts(tmp_path, 1, **books)
    for page in opened(chromium, address, viewport={"width": 1000, "height": 800}):
        processes = page.get_by_role("region", name="Books of the processes")
        processes.focus()
        page.keyboard.press("ArrowRight")
        # Not page.wait_for_function(), which the page's policy allows once only.
        is_scrolled = "document.activeElement.scrollLeft > 0"
        wait_until(partial(page.evaluate, is_scrolled), "the table is scrolled")
        write_counts(tmp_path, 1, **books | {"enqueued": 987_654})
        processes.get_by_text("987\u00a0654").wait_for()


@pytest.mark.parametrize("width", [400, 1200])
def test_all_of_a_page_are_chosen_at_once(
    desk: Desk, chromium: Browser, address: str, width: int
) -> None:
    desk.die(1)
    desk.die(2)
    for page in opened(chromium, address, viewport={"width": width, "height": 800}):
        page.get_by_role("link", name="All events").click()
        chooser = page.get_by_label("Choose all on this page")
        # The page's script shows it.
        chooser.wait_for()
        box = chooser.bounding_box()
        assert box is not None
        assert box["width"] > 10
        chooser.focus()
        page.keyboard.press("Space")
        assert page.locator("input[name=id]:checked").count() == 2


def test_it_is_printed_in_dark_on_white(chromium: Browser, address: str) -> None:
    for page in opened(chromium, address, color_scheme="dark"):
        page.emulate_media(media="print")
        color = page.evaluate("getComputedStyle(document.body).color")
        assert color == "rgb(22, 33, 43)"
        assert page.get_by_role("button").count() == 0
        assert _worst_contrast(page) >= 4.5


def test_the_keyboard_is_enough(desk: Desk, page: Page) -> None:
    desk.die(1, "orders")
    page.reload()
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the content"
    assert page.locator(":focus").bounding_box()["y"] >= 0  # type: ignore[index]
    seen: list[str] = []
    for _ in range(12):
        page.keyboard.press("Tab")
        focus = page.locator(":focus")
        seen.append(focus.inner_text())
        outline = focus.evaluate(
            "getComputedStyle(document.activeElement).outlineWidth"
        )
        assert outline == "3px"
        if seen[-1] == "orders":
            break
    assert seen[1:4] == ["Overview", "All events", "Dead"]
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Events").wait_for()


#: The lowest contrast between a text and the first opaque colour behind it.
_CONTRAST = """
() => {
  const canvas = document.createElement("canvas")
    .getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = ([r, g, b]) => [r, g, b]
    .map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = rgba(getComputedStyle(e).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255];
  };
  let worst = 21;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const [a, b] = [rgba(getComputedStyle(element).color), behind(element)].map(light);
    worst = Math.min(worst, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return worst;
}
"""


def _worst_contrast(page: Page) -> float:
    return float(page.evaluate(_CONTRAST))
