"""The list of events, and the page of one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector import Outcome
from flask_eventcollector.dashboard import listing
from tests.helpers import wait_until

from .support import Desk, open_desk


@pytest.fixture
def full() -> Iterator[Desk]:
    """Three events wait, for two targets, and one is dead."""
    with open_desk(waits=True) as desk:
        desk.die("d", "dead.letters", exchange="shop")
        desk.shop.events.broker  # noqa: B018
        yield desk


def test_the_events_are_listed_oldest_first(desk: Desk) -> None:
    events = [desk.die(n, queue) for n, queue in enumerate(["a", "b", "c"])]
    assert desk.ids() == [event.id for event in events]
    page = desk.shown("events")
    assert page.index(" a ") < page.index(" b ") < page.index(" c ")
    assert "dead" in page


def test_nothing_waits(desk: Desk) -> None:
    assert "Nothing waits, and nothing is dead." in desk.shown("events")
    assert "No event meets this filter." in desk.shown("events", target="x")


@pytest.fixture
def mixed() -> Iterator[tuple[Desk, dict[str, str]]]:
    """The ids of events: two are dead, one waits behind a refusal, one is delayed."""
    with open_desk(DEAD_AFTER=0) as desk:
        faults = desk.shop.faults
        ids = {"a": desk.die(1, "orders.a").id, "b": desk.die(2, "orders.b").id}
        faults.go_down()
        ids["waits"] = desk.leave(3, "bills").id
        ids["delayed"] = desk.leave(4, "orders.a", delay=3600).id
        yield desk, ids


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["a", "b", "waits", "delayed"]),
        ({"state": "dead"}, ["a", "b"]),
        ({"state": "waiting"}, ["waits", "delayed"]),
        ({"state": "nonsense"}, ["a", "b", "waits", "delayed"]),
        ({"target": "orders.a"}, ["a", "delayed"]),
        ({"target": "orders.*", "state": "dead"}, ["a", "b"]),
        ({"target": " bills "}, ["waits"]),
        ({"target": "nothing"}, []),
        ({"text": "refused it"}, ["a", "b"]),
        ({"text": "nothing of that"}, []),
        ({"page": "2"}, []),
        ({"page": "-1"}, ["a", "b", "waits", "delayed"]),
        ({"page": "x"}, ["a", "b", "waits", "delayed"]),
        ({"page": "9" * 50}, ["a", "b", "waits", "delayed"]),
    ],
    ids=str,
)
def test_the_list_is_filtered(
    mixed: tuple[Desk, dict[str, str]], query: dict[str, str], names: list[str]
) -> None:
    desk, ids = mixed
    assert desk.ids(**query) == [ids[name] for name in names]


def test_an_event_is_found_by_the_beginning_of_its_id(
    mixed: tuple[Desk, dict[str, str]],
) -> None:
    desk, ids = mixed
    for text in (ids["a"], ids["a"].upper(), ids["a"][:35]):
        assert desk.ids(text=text) == [ids["a"]]
    assert desk.ids(text=ids["a"], state="waiting") == []
    assert desk.ids(text=ids["a"], target="bills") == []
    # What could be one, but is none, is looked for in the reasons.
    assert desk.ids(text="dead-beef") == []


def test_the_filter_stays_in_the_form_and_in_the_links(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    monkeypatch.setattr(listing, "LAST_PAGE", 2)
    events = [desk.die(n) for n in range(5)]
    page = desk.page("events", state="dead", target="q")
    assert desk.ids(state="dead", target="q") == [event.id for event in events[:2]]
    assert 'value="q"' in page
    assert '<option value="dead" selected>' in page
    assert "page=2&amp;target=q&amp;state=dead" in page
    last = desk.shown("events", state="dead", page=2)
    assert "Narrow the filter, or use “flask events list”" in last
    assert "Later" not in last
    assert "Earlier" in last


def test_a_page_is_short_however_much_waits(desk: Desk) -> None:
    with desk.shop.app_context():
        desk.shop.events.broker  # noqa: B018
        desk.shop.faults.go_down()
        for number in range(120):
            desk.shop.events.enqueue_event(number, "q")
        desk.shop.events.publish(0)
    assert len(desk.ids()) == 50
    assert len(desk.ids(page=3)) == 20
    assert desk.ids(page=4) == []


# One event.


def test_an_event_is_shown(desk: Desk) -> None:
    event = desk.die({"a": 1}, "orders", exchange="", type="order", priority=3)
    page = desk.shown("event", id=event.id)
    assert f"Event {event.id}" in page
    for text in ("Target orders", "State dead", "Attempts 1", "type order"):
        assert text in page
    assert "the memory of process" in page
    assert "Next nothing, until somebody retries it" in page
    assert "EVENTCOLLECTOR_HISTORY_DIR" in page


def test_what_keeps_an_event_is_told(desk: Desk) -> None:
    """Also without a history."""
    desk.shop.faults.block()
    event = desk.leave()
    page = desk.shown("event", id=event.id)
    assert "sends it once the broker takes it; now: the broker is blocked" in page


def test_an_unknown_event_is_told(desk: Desk) -> None:
    response = desk.get("event", id="unknown")
    assert response.status_code == 404
    assert "It may have been delivered" in response.text
    assert desk.get("event").status_code == 404


def test_its_life_is_shown(tmp_path: Path) -> None:
    with open_desk(waits=True, HISTORY_DIR=str(tmp_path)) as desk:
        desk.shop.faults.refuse("q", Outcome.NACKED)
        event = desk.leave()
        wait_until(
            lambda: "failed" in desk.get("event", id=event.id).text, "it is written"
        )
        page = desk.shown("event", id=event.id)
        for text in ("enqueued", "handed over", "sent", "failed attempt 1 nacked"):
            assert text in page
        assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z enqueued", page)
        desk.shop.faults.accept("q")
        assert desk.shop.events.flush(10)
        wait_until(
            lambda: "the broker has it" in desk.shown("event", id=event.id),
            "its end is written",
        )
        # Nothing can be done with it any more.
        assert 'method="post"' not in desk.page("event", id=event.id)


def test_the_page_of_an_event_is_that_of_no_other(tmp_path: Path) -> None:
    with open_desk(HISTORY_DIR=str(tmp_path)) as desk:
        id = desk.die().id
        wait_until(lambda: "enqueued" in desk.page("event", id=id), "it is written")
        assert desk.get("event", id=id[:8]).status_code == 404


def test_a_history_that_can_not_be_read_is_none(tmp_path: Path) -> None:
    with open_desk(HISTORY_DIR=str(tmp_path / "later")) as desk:
        assert desk.get("event", id="unknown").status_code == 404


# What is confidential.

SECRET = {"card": "s3cr3t"}
HEADERS = {"authorization": "t0k3n"}


def test_payloads_and_headers_are_hidden(desk: Desk) -> None:
    event = desk.die(SECRET, headers=HEADERS)
    for page in ("", "live", "events", f"event?id={event.id}&payload=1"):
        text = desk.page(page)
        assert "s3cr3t" not in text
        assert "t0k3n" not in text
    assert "does not show payloads and headers" in text


def test_they_are_shown_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with open_desk({"show_payloads": True}) as desk:
        event = desk.die(SECRET, headers=HEADERS)
        assert "s3cr3t" not in desk.page("event", id=event.id)
        caplog.clear()
        page = desk.page("event", id=event.id, payload=1)
    assert "&#34;card&#34;: &#34;s3cr3t&#34;" in page
    assert "t0k3n" in page
    assert "Dashboard: ann asked to show 1 event." in caplog.messages


@pytest.mark.parametrize(
    ("payload", "more", "text"),
    [
        (b"\xff<b>", {"content_type": "image/png"}, "\\xff&lt;b&gt;"),
        (b"x" * 200_000, {"content_type": "text/plain"}, "It is longer."),
        ("x" * 200_000, {}, "It is longer."),
        ("line\nbreak ü", {}, "line\\nbreak ü"),
    ],
    ids=["bytes", "long bytes", "long text", "text"],
)
def test_any_payload_is_shown(payload: Any, more: dict[str, Any], text: str) -> None:
    with open_desk({"show_payloads": True}) as desk:
        event = desk.die(payload, **more)
        page = desk.page("event", id=event.id, payload=1)
    assert text in page
    assert len(page) < 120_000


# What is hostile.

XSS = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
#: Turns the rest of its line around, and a control character of terminals.
UNSEEN = "\u202egnp.exe\x1b[31m"


def unharmed(text: str) -> None:
    # What a form sends back is as it was, and invisible.
    text = re.sub(r'value="[^"]*"', "", text)
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("hostile", [XSS, UNSEEN], ids=["markup", "unseen"])
def test_hostile_names_and_reasons_are_escaped(
    hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flask_eventcollector.delivery import ledger

    with open_desk({"show_payloads": True, "authorize": lambda: hostile}) as desk:
        event = desk.die({hostile: hostile}, hostile, headers={hostile[:50]: hostile})
        (entry,) = _entries(desk)
        entry.reason = hostile
        assert ledger is not None
        pages = ["", "events", f"event?id={event.id}&payload=1"]
        texts = [desk.page(page) for page in pages]
        live = desk.get("live")
        # Its figures have names as they are, which a browser takes for no page.
        assert live.mimetype == "application/json"
        texts += live.get_json()["parts"].values()
        texts.append(desk.page("events", target=hostile, text=hostile))
        texts.append(desk.post(action="purge", id=event.id).text)
        texts.append(desk.post(action="redirect", id=event.id, queue=hostile).text)
        for text in texts:
            unharmed(text)
        assert "alert(1)" in texts[0] or "gnp.exe" in texts[0]


def _entries(desk: Desk) -> list[Any]:
    from flask_eventcollector.app_state import state_of

    state = state_of(desk.shop)
    assert state is not None
    return state.delivery().held()[0]


@pytest.mark.parametrize("id", [XSS, UNSEEN, "../../etc", "a/b?c=d#e", "%2e%2e"])
def test_a_hostile_id_is_escaped_and_still_works(id: str) -> None:
    from flask_eventcollector.delivery.entries import Entry, State
    from tests.parts import make_event

    with open_desk() as desk:
        desk.die()
        (known,) = _entries(desk)
        hostile = Entry(make_event(1, "q", id=id))
        hostile.state, hostile.reason = State.DEAD, "no"
        _replace(desk, known, hostile)
        text = desk.page("events")
        unharmed(text)
        page = desk.page("event", id=id)
        unharmed(page)
        assert desk.get("event", id=id).status_code == 200


def _replace(desk: Desk, known: Any, entry: Any) -> None:
    from flask_eventcollector.app_state import state_of

    state = state_of(desk.shop)
    assert state is not None
    books = state.delivery()._ledger._books
    books._live[entry.event.raw_id] = entry
    del books._live[known.event.raw_id]


@pytest.mark.parametrize("name", ["q" * 255, "ü" * 127, "a b", "%s%d{}"])
def test_any_name_of_a_queue_is_shown_and_leads_to_its_events(name: str) -> None:
    from html import unescape

    with open_desk() as desk:
        event = desk.die(1, name)
        link = re.search(r'rowheader"[^>]*><a href="([^"]+)"', desk.page())
        assert link is not None
        listed = desk.browser.get(unescape(link[1])).text
        assert event.id in listed


def test_no_credential_is_shown() -> None:
    url = "amqp://ann:s3cr3t@broker.invalid:1/shop"
    with open_desk(BROKER_URL=url, TESTING_BROKER=True) as desk:
        desk.leave()
        for page in ("", "live", "events"):
            assert "s3cr3t" not in desk.page(page)
