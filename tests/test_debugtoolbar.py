"""The panel for Flask-DebugToolbar, on real pages of the real extension."""

from __future__ import annotations

import html
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import flask
import pytest

from flask_eventcollector import event_enqueued
from tests.browser import open_chromium, serving
from tests.helpers import Shop, in_thread

flask_debugtoolbar = pytest.importorskip("flask_debugtoolbar")

PANEL = "flask_eventcollector.debugtoolbar.EventsPanel"
PAGE = "<!doctype html><title>Shop</title><body>Welcome</body>"
#: Each would run, or break out of its place, where it is not escaped.
ATTACKS = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</td></table></div><h1>here",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;",
    "</style><script>alert(1)</script>",
]


class ToolbarShop(Shop):
    """A shop with the toolbar, whose views do what a test wants."""

    def __init__(self, *, is_debug: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.debug = is_debug
        self.config.update(
            SECRET_KEY="k", DEBUG_TB_ENABLED=True, DEBUG_TB_PANELS=[PANEL]
        )
        self.config["DEBUG_TB_INTERCEPT_REDIRECTS"] = False
        flask_debugtoolbar.DebugToolbarExtension(self)
        self.act: Callable[[], Any] = lambda: None
        self.add_url_rule("/", "page", self._page)
        self.add_url_rule("/api/<path:_>", "api", self._api, methods=["GET", "POST"])

    def _page(self) -> str:
        self.act()
        return PAGE

    def _api(self, _: str) -> Any:
        return self.act() or {"done": True}

    def handle(self, act: Callable[[], Any], path: str = "/api/1") -> int:
        """Let a request that isn't answered by a page do something."""
        self.act = act
        return self.test_client().post(path).status_code

    def page(self, act: Callable[[], object] = lambda: None) -> str:
        """What the panel shows in a page whose view does something."""
        self.act = act
        return self.test_client().get("/").get_data(as_text=True)


@pytest.fixture
def shop() -> Iterator[ToolbarShop]:
    shop = ToolbarShop()
    yield shop
    shop.events.close(0)


def text_of(page: str) -> str:
    """The words of the panel, as a browser shows them."""
    (panel,) = re.findall(r'<div class="eventcollector">(.*)</div>', page, re.S)
    panel = re.sub(r"<style>.*?</style>", "", panel, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", panel)).split())


def earlier(page: str) -> str:
    """What is said about the other requests."""
    return text_of(page).partition("latest first")[2]


def test_the_events_of_this_request_are_shown(shop: ToolbarShop) -> None:
    def order() -> None:
        shop.events.enqueue_event(
            {"id": 7}, "orders.created", exchange="shop", headers={"tenant": "t1"},
            priority=5, key=("order", 7)
        )  # fmt: skip

    text = text_of(shop.page(order))
    assert "shop/orders.created" in text
    assert '{"id":7}' in text.replace('": ', '":')
    assert "Headers: tenant: t1" in text
    assert "Options: priority: 5, key: ('order', 7)" in text
    assert re.search(r"tests/test_debugtoolbar\.py:\d+ in order", text)
    assert "published at the end of the request" in text
    assert earlier(shop.page()).count("confirmed") == 1


def test_its_name_counts_the_events(shop: ToolbarShop) -> None:
    assert "0 events, 0 earlier" in shop.page()
    shop.handle(lambda: shop.enqueue(1, 2))
    assert "1 event, 2 earlier" in shop.page(lambda: shop.enqueue(3))


@pytest.mark.filterwarnings("ignore:Could not insert debug toolbar")
@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (None, "200"),
        (("<li>one</li>", 202), "202"),
        (("", 303, {"Location": "/"}), "303"),
    ],
    ids=["json", "fragment", "redirect"],
)
def test_requests_without_a_page_are_seen_in_the_next_one(
    shop: ToolbarShop, answer: Any, result: str
) -> None:
    def act() -> Any:
        shop.enqueue("x")
        return answer

    shop.handle(act, "/api/one")
    text = earlier(shop.page())
    assert f"POST /api/one → {result} Target" in text
    assert "confirmed" in text


def test_a_request_without_events_is_not_listed(shop: ToolbarShop) -> None:
    shop.handle(lambda: None)
    assert "This process has handled none." in text_of(shop.page())


def test_the_latest_request_comes_first(shop: ToolbarShop) -> None:
    for number in range(25):
        shop.handle(lambda: shop.enqueue(1), f"/api/{number}")
    found = re.findall(r"/api/(\d+)", earlier(shop.page()))
    assert found == [str(number) for number in range(24, 4, -1)]


def test_of_many_events_the_first_are_shown(shop: ToolbarShop) -> None:
    shop.handle(lambda: shop.enqueue(*range(250)))
    page = shop.page()
    assert "These are the first 100 of 250 events." in text_of(page)
    assert "0 events, 250 earlier" in page
    assert text_of(page).count("confirmed") == 100


def test_long_values_are_cut(shop: ToolbarShop) -> None:
    long = "x" * 100_000

    def act() -> None:
        headers = {"h": long[:9_000]}
        shop.events.enqueue_event(long, "q", headers=headers, type="t" * 200)
        shop.events.enqueue_event(b"\xff" * 70, "q", content_type="image/png")

    page = shop.page(act)
    assert len(text_of(page)) < 4_000
    assert "(100002 characters)" in text_of(page)
    assert "70 bytes of image/png" in text_of(page)


# What becomes of events.


def fail(shop: ToolbarShop) -> None:
    shop.faults.refuse("q")
    shop.enqueue(1)


def go_down(shop: ToolbarShop) -> None:
    shop.faults.go_down("no route to host")
    shop.enqueue(1)


def be_silent(shop: ToolbarShop) -> None:
    shop.enqueue(1)
    shop.silence()


def be_refused(shop: ToolbarShop) -> Any:
    shop.enqueue(1)
    return {"no": 1}, 404


def raise_error(shop: ToolbarShop) -> None:
    shop.enqueue(1)
    raise ValueError("secret")


def clear(shop: ToolbarShop) -> None:
    shop.enqueue(1)
    shop.events.clear_events_to_publish()


def replace(shop: ToolbarShop) -> None:
    for number in (1, 2):
        shop.events.enqueue_event(number, "q", key="k")


def delay(shop: ToolbarShop) -> None:
    shop.events.enqueue_event(1, "q", delay=60)


def route_nowhere(shop: ToolbarShop) -> None:
    shop.events.enqueue_event(1, "nobody", exchange="news")


def overflow(shop: ToolbarShop) -> None:
    shop.enqueue(*range(12))


@pytest.mark.parametrize(
    ("act", "settings", "shown"),
    [
        (go_down, {}, "waits for the next try the broker is down: no route to host"),
        (fail, {}, "waits for the next try"),
        (fail, {"DEAD_AFTER": 0}, "dead"),
        (be_silent, {"CONFIRM_TIMEOUT": 0}, "in flight"),
        (be_refused, {}, "discarded the response was 404"),
        (raise_error, {}, "discarded ValueError was raised"),
        (clear, {}, "discarded cleared"),
        (replace, {}, "discarded a later event has the same key"),
        (delay, {}, "delayed"),
        (route_nowhere, {}, "unrouted"),
        (overflow, {"MAX_EVENTS": 10}, "dropped overflow"),
    ],
)
def test_each_outcome_has_its_words(
    act: Callable[[ToolbarShop], Any], settings: dict[str, Any], shown: str
) -> None:
    exchanges = {"news": {"type": "topic", "unrouted": "discard"}}
    queues = {"q": {"bind": ["news:q"]}}
    shop = ToolbarShop(EXCHANGES=exchanges, QUEUES=queues, **settings)
    shop.handle(lambda: act(shop))
    assert shown in earlier(shop.page())
    shop.events.close(0)


def test_an_error_is_told_without_its_text(shop: ToolbarShop) -> None:
    shop.handle(lambda: raise_error(shop))
    text = earlier(shop.page())
    assert "POST /api/1 → 500 ValueError" in text
    assert "secret" not in text


def test_what_came_later_is_shown_in_the_next_page(shop: ToolbarShop) -> None:
    shop.handle(lambda: go_down(shop))
    assert "waits" in earlier(shop.page())
    shop.faults.come_up()
    assert shop.events.flush(5)
    shop.events.close(1)
    assert "confirmed" in earlier(shop.page())


def test_a_request_in_progress_is_shown_as_such(shop: ToolbarShop) -> None:
    seen: list[str] = []

    def act() -> None:
        shop.enqueue(1)
        in_thread(lambda: seen.append(earlier(shop.page())))

    shop.handle(act, "/api/slow")
    assert "POST /api/slow → no response yet" in seen[0]
    assert "not published yet" in seen[0]


def test_what_a_transaction_decides_is_shown(tmp_path: Path) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    from flask_eventcollector import make_outbox_table

    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'shop.sqlite3'}")
    metadata = sqlalchemy.MetaData()
    table = make_outbox_table(metadata)
    orders = sqlalchemy.Table(
        "orders", metadata, sqlalchemy.Column("id", sqlalchemy.Integer)
    )
    metadata.create_all(engine)
    shop = ToolbarShop(
        BROKER_URL="memory://", TESTING_BROKER=True, OUTBOX_RELAY="external"
    )
    session = orm.Session(engine)
    shop.events.bind_session(session, outbox=table)

    def write() -> None:
        session.execute(orders.insert().values(id=1))
        shop.enqueue(1)

    shop.handle(write)
    assert "not published yet: its request, block or transaction" in earlier(
        shop.page()
    )
    session.commit()
    assert "in the outbox" in earlier(shop.page())
    session.close()
    engine.dispose()
    shop.events.close(0)


# Safety.


def in_queue(shop: ToolbarShop, text: str) -> Any:
    shop.enqueue(1, queue=text)


def in_payload(shop: ToolbarShop, text: str) -> Any:
    shop.enqueue({text: [text]})


def in_body(shop: ToolbarShop, text: str) -> Any:
    shop.events.enqueue_event(text.encode(), "q", content_type="text/html")


def in_content_type(shop: ToolbarShop, text: str) -> Any:
    shop.events.enqueue_event(b"\xff", "q", content_type=text)


def in_header(shop: ToolbarShop, text: str) -> Any:
    shop.events.enqueue_event(1, "q", headers={text: {text: text}})


def in_option(shop: ToolbarShop, text: str) -> Any:
    shop.events.enqueue_event(1, "q", type=text, key=text)


def in_reason(shop: ToolbarShop, text: str) -> Any:
    shop.faults.go_down(text)
    shop.enqueue(1)


def in_error(shop: ToolbarShop, text: str) -> Any:
    shop.enqueue(1)
    raise type(text, (Exception,), {})


PLACES = [
    in_queue,
    in_payload,
    in_body,
    in_content_type,
    in_header,
    in_option,
    in_reason,
    in_error,
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_from_outside_is_markup(place: Callable[..., Any], attack: str) -> None:
    harmless = "x" * len(attack)
    pages = [page_after(partial(place, text=text)) for text in (harmless, attack)]
    tags = [re.findall(r"<[^>]*>", page) for page in pages]
    assert tags[0] == tags[1]
    assert pages[0].count(harmless) >= 1


@pytest.mark.parametrize("place", PLACES)
def test_nothing_invisible_is_shown_as_it_is(place: Callable[..., Any]) -> None:
    """U+202E turns the rest of its line around."""
    page = page_after(partial(place, text="fdp\u202egnp.exe"))
    assert "\u202e" not in page
    assert "fdp\\u202egnp.exe" in html.unescape(page)


def test_the_lines_of_a_payload_are_kept(shop: ToolbarShop) -> None:
    body = b"<one>\n\ntwo"
    page = shop.page(
        lambda: shop.events.enqueue_event(body, "q", content_type="text/html")
    )
    assert "<div>&lt;one&gt;<br><br>two</div>" in page


def page_after(act: Callable[[ToolbarShop], Any], path: str = "/api/x") -> str:
    """The page of a shop in which this was done before, and is done again."""
    shop = ToolbarShop()

    def once_more() -> None:
        with suppress(Exception):
            act(shop)

    shop.handle(lambda: act(shop), path)
    page = shop.page(once_more)
    shop.events.close(0)
    return page


@pytest.mark.parametrize("attack", ["%3Cscript%3Ealert(1)%3C/script%3E", "%22%3E%3Cb"])
def test_nothing_in_a_path_is_markup(attack: str) -> None:
    pages = [
        page_after(lambda shop: shop.enqueue(1), path)
        for path in ("/api/x", f"/api/{attack}")
    ]
    tags = [re.findall(r"<[^>]*>", page) for page in pages]
    assert tags[0] == tags[1]


def test_outside_of_debug_mode_nothing_is_recorded_or_shown() -> None:
    shop = ToolbarShop(is_debug=False)
    assert not list(event_enqueued.receivers_for(shop))
    page = shop.page(lambda: shop.enqueue("s3cr3t"))
    assert "s3cr3t" not in page
    assert "works in debug mode only" in text_of(page)
    assert "not in debug mode" in page
    shop.events.close(0)


def test_an_app_without_a_collector_is_told_so() -> None:
    app = flask.Flask("plain")
    app.debug = True
    app.config.update(SECRET_KEY="k", DEBUG_TB_PANELS=[PANEL])
    app.add_url_rule("/", "page", lambda: PAGE)
    flask_debugtoolbar.DebugToolbarExtension(app)
    page = app.test_client().get("/").get_data(as_text=True)
    assert "with an EventCollector" in text_of(page)


def test_a_page_starts_nothing(shop: ToolbarShop) -> None:
    before = threading.active_count()
    assert "It has enqueued no events so far." in text_of(shop.page())
    assert threading.active_count() == before


def test_many_threads_at_once(shop: ToolbarShop) -> None:
    shop.act = lambda: shop.enqueue(1, 2)
    answers: list[int] = []

    def ask() -> None:
        for path in ("/", "/api/x"):
            answers.append(shop.test_client().get(path).status_code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 40
    assert earlier(shop.page()).count("confirmed") == 40


def test_without_the_panel_nothing_is_loaded() -> None:
    code = """
import sys
from flask import Flask
from flask_debugtoolbar import DebugToolbarExtension
from flask_eventcollector import EventCollector, event_enqueued
app = Flask("shop")
app.debug = True
app.config["SECRET_KEY"] = "k"
EventCollector(app)
DebugToolbarExtension(app)
assert "flask_eventcollector.debugtoolbar" not in sys.modules
assert not list(event_enqueued.receivers_for(app))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_all_of_it(shop: ToolbarShop, width: int) -> None:
    def act() -> None:
        for text in ATTACKS:
            shop.events.enqueue_event({text: "x" * 300}, text)

    shop.handle(act, "/api/seen-in-the-next-page")
    shop.act = act
    with serving(shop) as address, open_chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        objections: list[object] = []
        page.on("pageerror", lambda error: objections.append(error))
        page.on("dialog", lambda dialog: objections.append(dialog))
        page.goto(address)
        page.locator("#flDebugPanelList a", has_text="Events").click()
        panel = page.locator(".eventcollector")
        panel.get_by_text("POST /api/seen-in-the-next-page").wait_for()
        # Beside it is the toolbar itself, which is 200 pixels wide.
        for cell in panel.locator("td").all():
            box = cell.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= width - 200
    assert objections == []
