"""The page in a real browser, served by ``flask run``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import open_chromium

from .serving import ServedShop
from .support import DEADLINE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Locator, Page, Route

pytestmark = pytest.mark.browser

#: Pixels, from a small phone to a desktop.
WIDTHS = [320, 400, 768, 1024, 1440]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Return Debian's Chromium."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Return the address of a new shop, served as a user would serve it."""
    shop = ServedShop(tmp_path)
    try:
        yield shop.start()
    finally:
        shop.stop()


@pytest.fixture
def empty_page(chromium: Browser) -> Iterator[Page]:
    """Return a page; the test fails if one of its scripts fails."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1100})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


@pytest.fixture
def page(empty_page: Page, address: str) -> Page:
    """Return the shop's page."""
    empty_page.goto(address)
    return empty_page


@pytest.fixture
def outbox_shop(tmp_path: Path) -> Iterator[ServedShop]:
    """Return a running shop with an outbox, which can be killed and started again."""
    shop = ServedShop(
        tmp_path,
        FLASK_EVENTCOLLECTOR_OUTBOX="1",
        FLASK_EVENTCOLLECTOR_OUTBOX_LEASE="3",
    )
    try:
        shop.start()
        yield shop
    finally:
        shop.stop()


@pytest.fixture
def spooling_shop(tmp_path: Path) -> Iterator[ServedShop]:
    """Return a running shop with the spool, which can be killed and started again."""
    shop = ServedShop(
        tmp_path,
        FLASK_EVENTCOLLECTOR_BACKLOG="spool",
        FLASK_EVENTCOLLECTOR_SPOOL_DIR=str(tmp_path / "spool"),
    )
    try:
        shop.start()
        yield shop
    finally:
        shop.stop()


def test_an_order_goes_from_the_form_to_confirmed(page: Page) -> None:
    _expect(page, "#broker-name", "the embedded broker")
    page.get_by_label("Product").select_option(label="Notebook · € 4.80")
    page.get_by_label("Quantity").fill("3")
    _press(page, "Place the order")

    _expect(page, "#message", "Order 1 was placed.")
    _expect(page, "#events tr", "confirmed")
    _expect(page, "#events tr", "orders.created")
    _expect(page, "#orders tr", "€ 14.40")
    _expect(page, "#stock", "Notebook: 117 in stock.")
    _expect_book(page, "confirmed", 1)


def test_a_retained_order_is_confirmed_when_the_broker_is_back(page: Page) -> None:
    _take_it_down(page)
    _press(page, "Place the order")
    _expect(page, "#events tr", "retained")
    _expect(page, "#broker-state", "down")
    _expect(page, "#backlog", "1 event waiting")
    _expect_book(page, "retained", 1)

    _press(page, "Bring it up")
    _expect(page, "#events tr", "confirmed")
    _expect(page, "#broker-state", "ready")
    _expect(page, "#backlog", "No events are waiting.")


def test_orders_outlive_the_process_that_is_killed(
    empty_page: Page, spooling_shop: ServedShop
) -> None:
    page = empty_page
    page.goto(spooling_shop.address)
    _expect(page, "#backlog-kind", "spool")
    _take_it_down(page)
    for number in (1, 2, 3):
        _press(page, "Place the order")
        _expect(page, "#message", f"Order {number} was placed.")
    _expect(page, "#on-disk", "On disk: 3 events.")
    spooling_shop.kill()
    _expect(page, "#broker-error", "The shop does not respond")

    page.goto(spooling_shop.start())
    _expect_book(page, "confirmed", 3)
    _expect(page, "#events tr", "3 events, left by an earlier process")
    _expect(page, "#on-disk", "On disk: 0 events.")


@pytest.mark.slow
def test_the_page_shows_what_a_commit_leaves_to_the_outbox(
    empty_page: Page, outbox_shop: ServedShop
) -> None:
    page = empty_page
    page.goto(outbox_shop.address)
    _expect(page, "#outbox-state", "bound")
    _expect(page, "#outbox-last", "No request has enqueued events yet.")
    _press(page, "Commit, then fail")
    _expect(page, "#message", "500: The view raised TooLate.")
    _expect(page, "#outbox-last", "The last request left 1 event in it.")
    _expect_book(page, "confirmed", 1)
    _press(page, "Roll back a savepoint")
    _expect(page, "#message", "Order 2 was placed, without the second one.")
    _expect(page, "#outbox-last", "left 1 event in it; 1 event rolled back.")
    _expect_book(page, "confirmed", 2)
    _expect_book(page, "discarded", 1)
    _expect(page, "#orders tr >> nth=1", "Coffee mug")

    _take_it_down(page)
    _press(page, "Commit, then fail")
    _expect(page, "#outbox-rows", "Rows waiting: 1.")
    _expect(page, "#events tr >> nth=0", "outboxed")
    outbox_shop.kill()
    page.goto(outbox_shop.start())
    for _ in range(100):  # Until the lease of the killed process has run out.
        if page.locator("[data-book=confirmed] .count").text_content() == "1":
            break
        _press(page, "Send now")
        page.wait_for_timeout(100)
    _expect_book(page, "confirmed", 1)
    _expect(page, "#outbox-rows", "Rows waiting: 0.")


def test_with_an_outbox_the_page_fits_every_screen(
    empty_page: Page, outbox_shop: ServedShop
) -> None:
    page = empty_page
    page.goto(outbox_shop.address)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        _assert_rows_are_full(page, 8)
        assert page.eval_on_selector_all(
            "button", "all => all.every(e => e.scrollWidth <= e.clientWidth)"
        )


def test_failed_orders_are_shown_as_discarded(page: Page) -> None:
    _press(page, "Fail midway")
    _expect(page, "#message", "500: The view raised PaymentFailed.")
    _press(page, "Order too many")
    _expect(page, "#message", "409: The database rejected the order")

    _expect_book(page, "discarded", 2)
    _expect(page, "#events tr >> nth=0", "discarded")
    _expect(page, "#events tr >> nth=1", "discarded")


def test_500_events_take_two_rows(page: Page) -> None:
    _press(page, "499 gift cards")

    _expect_book(page, "confirmed", 500)
    _expect(page, "#events tr >> nth=0", "499 events")
    _expect(page, "#events tr >> nth=1", "orders.created")


def test_the_page_shows_what_others_do(page: Page, address: str) -> None:
    page.request.post(f"{address}/orders", form={"product": "1", "quantity": "1"})

    _expect(page, "#events tr", "confirmed")


def test_a_hidden_page_asks_nothing(page: Page) -> None:
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_response("**/state.json"):
        pass
    page.evaluate(
        """() => {
          Object.defineProperty(document, "hidden", { value: true, writable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    # What it had just asked for is told a little later.
    page.evaluate("() => new Promise((done) => setTimeout(done, 500))")
    asked.clear()
    # Longer than the page's period, by the page's clock.
    page.evaluate("() => new Promise((done) => setTimeout(done, 1500))")
    assert asked == []

    with page.expect_response("**/state.json"):
        page.evaluate(
            """() => {
              document.hidden = false;
              document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )


def test_the_page_shows_that_the_shop_has_ended(page: Page) -> None:
    _expect(page, "#broker-state", "idle")
    page.route("**/state.json", lambda route: route.abort())
    _expect(page, "#broker-error", "The shop does not respond")

    page.unroute("**/state.json")
    _expect(page, "#broker-state", "idle")


@pytest.mark.parametrize("width", WIDTHS)
def test_each_row_of_counts_fills_its_card(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    _assert_rows_are_full(page, 7)


def _assert_rows_are_full(page: Page, tiles: int) -> None:
    # All at once, since the page moves them when it hears from the shop.
    whole, *boxes = page.eval_on_selector_all(
        "#books, [data-book]", "all => all.map(e => e.getBoundingClientRect().toJSON())"
    )
    rows: dict[float, list[FloatRect]] = defaultdict(list)
    for box in boxes:
        rows[box["y"]].append(box)

    assert sum(map(len, rows.values())) == tiles
    for row in rows.values():
        left, right = row[0]["x"], row[-1]["x"] + row[-1]["width"]
        assert left == pytest.approx(whole["x"], abs=1)
        assert right == pytest.approx(whole["x"] + whole["width"], abs=1)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_brokers_state_stands_above_its_buttons_which_stay_in_place(
    page: Page, width: int
) -> None:
    # So high that a click never scrolls.
    page.set_viewport_size({"width": width, "height": 4000})
    _press(page, "Place the order")
    _expect(page, "#broker-state", "ready")
    before = _box(page, "#faults-title")
    _press(page, "Take it down")
    _expect(page, "#broker-error", "it was taken down")

    state = _box(page, "#broker-error")
    assert _box(page, "#faults-title")["y"] == before["y"]
    assert state["y"] + state["height"] < _box(page, "#order-title")["y"]
    assert state["y"] + state["height"] < before["y"]


def test_the_events_have_the_words_of_the_counts(page: Page) -> None:
    _press(page, "Place the order")
    _expect_book(page, "confirmed", 1)
    _press(page, "Fail midway")
    _expect_book(page, "discarded", 1)
    _take_it_down(page)
    _press(page, "Place the order")
    _expect(page, "#events tr >> nth=0", "retained")
    _expect_book(page, "confirmed", 1)

    counted = page.eval_on_selector_all(
        "[data-book]", "all => all.map(e => e.dataset.book)"
    )
    states = page.locator("#events .pill").all_text_contents()
    assert set(states) == {"confirmed", "discarded", "retained"}
    assert set(states) <= set(counted)


def test_many_events_for_long_queues_fit_every_screen(page: Page) -> None:
    def with_long_names(route: Route) -> None:
        state = route.fetch().json()
        state["broker"] |= {"state": "down", "error": "no route to " + "host" * 40}
        row = {"id": "0123456789", "count": 1, "origin": "", "reason": "", "age": 7e5}
        row |= {"queue": "shop." + "x" * 200, "attempts": 2, "state": "confirmed"}
        state["events"] = [row] * 50
        state["dead"] = [{"queue": "y" * 255, "reason": "r", "count": 9, "attempts": 9}]
        route.fulfill(json=state)

    page.route("**/state.json", with_long_names)
    _expect(page, "#dead tr", "yyy")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert _box(page, "#events")["width"] <= _box(page, "#books")["width"]
        assert page.evaluate("""() => [...document.querySelectorAll(".scroll")]
            .every((part) => part.scrollWidth <= part.clientWidth)""")
    page.unroute_all(behavior="wait")


def test_each_control_has_a_name_and_the_keyboard_reaches_it(page: Page) -> None:
    names = page.eval_on_selector_all(
        "button, input:not([type=hidden]), select, [tabindex]",
        "all => all.map(e => e.textContent.trim() || e.labels?.[0]?.textContent)",
    )
    assert all(names)

    page.get_by_role("button", name="Place the order").focus()
    page.keyboard.press("Enter")
    _expect(page, "#message", "Order 1 was placed.")
    assert page.evaluate("document.activeElement.textContent") == "Place the order"


def _press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def _take_it_down(page: Page) -> None:
    """Returns once it is: the requests of two buttons may overtake each other."""
    _press(page, "Take it down")
    _expect(page, "#message", "The broker is down.")


def _box(page: Page, selector: str) -> FloatRect:
    return _box_of(page.locator(selector))


def _box_of(found: Locator) -> FloatRect:
    box = found.bounding_box()
    assert box is not None
    return box


def _expect(page: Page, selector: str, text: str) -> None:
    from playwright.sync_api import expect

    found = page.locator(selector).first
    expect(found).to_contain_text(text, timeout=DEADLINE * 1000)


def _expect_book(page: Page, name: str, count: int) -> None:
    from playwright.sync_api import expect

    found = page.locator(f"[data-book={name}] .count")
    expect(found).to_have_text(str(count), timeout=DEADLINE * 1000)
