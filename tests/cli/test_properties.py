"""Events that have properties, or whose payload is not JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flask_eventcollector.delivery.entries import Entry, State
from flask_eventcollector.events import Event, Properties
from flask_eventcollector.stores.spool.journal import Journal
from flask_eventcollector.stores.spool.rows import row_of
from tests.cli.support import Run
from tests.helpers import Shop
from tests.parts import make_event
from tests.spool import support

ABOUT = Properties(type="order.created", priority=5)


def leave(
    folder: Path, body: bytes, properties: Properties, *, dead: bool = False
) -> None:
    """Leave an event with this *body* and the id ``some-event``."""
    path = support.leave(folder, [], "orders", destination=None)
    event = make_event(id="some-event", properties=properties)
    changed = Event.of(
        id=event.id,
        target_queue="orders",
        exchange="",
        body=body,
        headers={"tenant": "a"},
        enqueued_at=event.enqueued_at,
        size=event.size,
        properties=properties,
    )
    journal = Journal.open(path)
    entry = Entry(changed)
    if dead:
        entry.state, entry.reason = State.DEAD, "refused"
    journal.write([row_of(entry, 1)])
    journal.close()


def test_the_properties_of_an_event_are_shown(run: Run, folder: Path) -> None:
    leave(folder, b"{}", ABOUT)

    lines = run("show", "some-event").stdout.splitlines()
    shown = json.loads(run("show", "some-event", "--json").stdout)

    assert lines[-3:] == [
        "property  type: order.created",
        "property  priority: 5",
        "header    tenant: a",
    ]
    assert shown["properties"] == {"type": "order.created", "priority": 5}


@pytest.mark.parametrize(
    ("body", "text", "base64"),
    [(b"a,b\n1,2", "a,b\n1,2", "YSxiCjEsMg=="), (b"\xff\x01", "ff 01", "/wE=")],
    ids=str,
)
def test_a_payload_that_is_not_json_is_shown(
    run: Run, folder: Path, body: bytes, text: str, base64: str
) -> None:
    leave(folder, body, Properties(content_type="text/csv"))

    told = run("show", "some-event", "--payload").stdout
    shown = json.loads(run("show", "some-event", "--payload", "--json").stdout)

    assert told.endswith(f"payload\n{text}\n")
    assert shown["payload"] == {"base64": base64}


def test_properties_survive_export_import_and_adoption(
    run: Run, folder: Path, shop: Shop, tmp_path: Path
) -> None:
    leave(folder, b"\xff", Properties(content_type="image/png", priority=7))
    file = str(tmp_path / "exported")

    assert run("export", file, "--remove").exit_code == 0
    assert run("import", file).exit_code == 0
    assert run("flush").exit_code == 0

    (event,) = shop.broker.events("orders")
    assert event.body == b"\xff"
    assert event.properties == Properties(content_type="image/png", priority=7)


def test_delayed_events_are_shown_and_counted_apart(run: Run, folder: Path) -> None:
    leave(folder, b"{}", Properties(delay=9000, expires_in=18_000))

    listed = run("list").stdout.splitlines()
    shown = run("show", "some-event").stdout.splitlines()
    status = run("status")

    assert listed[0].split() == ["ID", "STATE", "AGE", "TARGET", "NEXT"]
    assert listed[1].split()[:2] == ["some-event", "delayed"]
    assert listed[1].endswith("in 2 h")
    assert shown[1] == "state     delayed"
    assert shown[2:4] == ["due       in 2 h", "expires   in 4 h"]
    assert "WAITING  DELAYED  DEAD" in status.stdout
    assert status.exit_code == 0

    (line,) = map(json.loads, run("list", "--json").stdout.splitlines())
    total = json.loads(run("status", "--json").stdout)["total"]

    assert (line["state"], line["reason"]) == ("delayed", None)
    assert 8000 < line["next_try"] <= 9000
    assert 17_000 < line["expires_in"] <= 18_000
    assert (total["waiting"], total["delayed"]) == (1, 1)


def test_an_event_whose_time_is_over_is_shown_as_expired(
    run: Run, folder: Path
) -> None:
    leave(folder, b"{}", Properties(expires_in=0.001))

    listed = run("list").stdout.splitlines()
    shown = run("show", "some-event").stdout.splitlines()
    why = run("why", "some-event").stdout.splitlines()
    (line,) = map(json.loads, run("list", "--json").stdout.splitlines())

    assert listed[1].split()[:2] == ["some-event", "expired"]
    assert shown[1] == "state     expired"
    assert re.fullmatch(r"expired   \d+ (s|min) ago", shown[2])
    assert why[-1].startswith("Next: nothing: its expires_in has passed, so it is")
    assert (line["state"], line["expires_in"]) == ("expired", 0)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_flush_counts_what_has_expired(run: Run, folder: Path, form: str) -> None:
    leave(folder, b"{}", Properties(expires_in=0.001))

    result = run("flush", *["--json"] * (form == "json"))

    assert result.exit_code == 0
    if form == "json":
        assert json.loads(result.stdout)["dropped"] == 1
    else:
        assert result.stdout == "0 events delivered, 1 dropped.\n"


def test_a_dead_event_stays_dead_and_shows_that_it_has_expired(
    run: Run, folder: Path
) -> None:
    leave(folder, b"{}", Properties(expires_in=0.001), dead=True)

    shown = run("show", "some-event").stdout.splitlines()

    assert shown[1] == "state     dead"
    assert re.fullmatch(r"expired   \d+ (s|min) ago", shown[3])


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_why_shows_nothing_of_what_an_event_says(
    run: Run, folder: Path, options: list[str]
) -> None:
    leave(folder, b'{"card": "secret"}', Properties(correlation_id="secret"))
    told = run("why", "some-event", *options).stdout
    assert "orders" in told
    assert "tenant" not in told
    assert "secret" not in told


@pytest.mark.parametrize(
    "command", [["list"], ["show", "some-event"], ["why", "some-event"]]
)
def test_the_name_of_a_queue_can_not_change_the_terminal(
    run: Run, folder: Path, command: list[str]
) -> None:
    support.leave(folder, ["some-event"], "\x1b]0;evil\x07", destination=None)
    told = run(*command).stdout
    assert r"\x1b]0;evil\x07" in told
    assert "\x1b" not in told


def test_why_says_who_sends_what_a_killed_process_has_left(
    run: Run, folder: Path
) -> None:
    leave(folder, b"{}", ABOUT)
    *_, last = run("why", "some-event").stdout.splitlines()
    assert last == "Next: a process of the app adopts it, or 'flask events flush' does"


def test_a_flush_leaves_delayed_events(run: Run, folder: Path, shop: Shop) -> None:
    leave(folder, b"{}", Properties(delay=3600))

    result = run("flush", "--timeout", "20")

    assert result.exit_code == 0
    assert "0 events delivered, 1 delayed." in result.stdout
    assert shop.broker.events("orders") == ()
    assert json.loads(run("flush", "--json").stdout)["delayed"] == 1
