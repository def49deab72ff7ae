"""CloudEvents on their way to the broker, in the stores, in commands and in tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context, propagate
from opentelemetry.sdk.trace import TracerProvider
from pika import BasicProperties

from flask_eventcollector import Event, EventDraft, received
from flask_eventcollector.delivery.entries import Entry
from flask_eventcollector.messages.amqp_fields import copy_headers
from flask_eventcollector.messages.cloudevents import attributes_of
from flask_eventcollector.messages.options import size_of
from flask_eventcollector.stores.outbox.rows import values_of
from flask_eventcollector.stores.plain import about_from_text
from flask_eventcollector.stores.spool.journal import Journal
from flask_eventcollector.stores.spool.rows import row_of
from flask_eventcollector.testing import event
from tests.cli.support import runner
from tests.cloudevents import sdk
from tests.helpers import DEADLINE, Shop, open_shop
from tests.spool import support
from tests.testing.shop_app import failure

MODES = ["binary", "structured"]
ATTRIBUTES = {"subject": "order-7", "retries": 3}


def settings(mode: str) -> dict[str, Any]:
    return {"CLOUDEVENTS": mode, "CLOUDEVENTS_SOURCE": "/shop"}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shop(mode: str) -> Iterator[Shop]:
    with open_shop(**settings(mode)) as shop:
        yield shop


def enqueue(shop: Shop, **options: Any) -> Event:
    return shop.events.enqueue_event(
        {"id": 7}, "orders", attributes=ATTRIBUTES, **options
    )


def test_a_second_copy_is_the_same_cloudevent(shop: Shop) -> None:
    with shop.events.capture() as captured:
        captured.fail_next(outcome="unknown")
        with shop.events.auto_publish():
            first = enqueue(shop)
        captured.flush(DEADLINE)

    (second,) = shop.broker.events("orders")
    marked = {**first.headers, "x-possible-duplicate": True}
    assert second.headers == marked
    assert (second.body, second.content_type) == (first.body, first.content_type)
    assert sdk.read(second).get_id() == first.id


def test_the_batch_headers_go_along(mode: str) -> None:
    with open_shop(BATCH_HEADERS=True, **settings(mode)) as shop:
        with shop.events.auto_publish():
            enqueue(shop)
        (sent,) = shop.broker.events("orders")
    assert (sent.headers["x-batch-index"], sent.headers["x-batch-size"]) == (0, 1)
    assert sdk.read(sent).get_subject() == "order-7"


def test_a_hook_may_add_attributes(mode: str) -> None:
    def add(draft: EventDraft) -> None:
        draft.options["attributes"] = {"tenant": "acme"}

    with open_shop(BEFORE_ENQUEUE=add, **settings(mode)) as shop:
        found = shop.events.enqueue_event(1, "orders")
        shop.events.clear_events_to_publish()
    assert sdk.read(found).get_extension("tenant") == "acme"


def test_the_other_settings_apply(mode: str) -> None:
    more = {"CLOUDEVENTS_PREFIX": "cloudEvents_", "INVALID_TEXT": "replace"}
    with open_shop(**settings(mode), **more) as shop:
        about = {"subject": "\ud83d"}
        found = shop.events.enqueue_event(1, "orders", attributes=about)
        shop.events.clear_events_to_publish()
    assert sdk.read_amqp(found).get_subject() == "\ufffd"
    assert sdk.read_amqp(found).get_source() == "/shop"


def test_the_trace_context_goes_along(shop: Shop) -> None:
    tracer = TracerProvider().get_tracer("shop")
    with tracer.start_as_current_span("request"):
        found = enqueue(shop)
    shop.events.clear_events_to_publish()
    assert found.headers["traceparent"].startswith("00-")
    assert sdk.read(found).get_subject() == "order-7"
    size = copy_headers(found.headers)[1] + len(found.body)
    assert found.size == size + size_of(found.properties)


@contextmanager
def in_trace(state: str) -> Iterator[str]:
    """In the block, a request's context is the current one; its ``traceparent``."""
    carrier = {"traceparent": f"00-{7:032x}-{8:016x}-01", "tracestate": state}
    token = context.attach(propagate.extract(carrier, context.Context()))
    try:
        yield carrier["traceparent"]
    finally:
        context.detach(token)


def test_the_trace_context_is_an_extension_too(shop: Shop) -> None:
    with in_trace("vendor=1") as traceparent, shop.events.auto_publish():
        enqueue(shop)
    (event,) = shop.broker.events("orders")

    found = sdk.read(event)
    assert found.get_extension("traceparent") == traceparent
    assert found.get_extension("tracestate") == "vendor=1"
    # The headers are for those who know nothing of CloudEvents.
    assert event.headers["traceparent"] == traceparent
    size = copy_headers(event.headers)[1] + len(event.body)
    assert event.size == size + size_of(event.properties)


def test_outside_of_a_trace_there_is_no_such_extension(shop: Shop) -> None:
    assert not {"traceparent", "tracestate"} & {*attributes_of(enqueue(shop))}
    shop.events.clear_events_to_publish()


def test_a_state_that_no_attribute_can_be_is_left_out(shop: Shop) -> None:
    with in_trace(f"vendor={'x' * 250}") as traceparent:
        found = attributes_of(enqueue(shop))
    shop.events.clear_events_to_publish()
    assert found["traceparent"] == traceparent
    assert "tracestate" not in found


def test_the_context_of_a_cloudevent_that_is_passed_on_is_kept(shop: Shop) -> None:
    first = {"traceparent": f"00-{1:032x}-{2:016x}-01"}
    with in_trace("vendor=1") as traceparent:
        event = shop.events.enqueue_event(1, "orders", attributes=first)
    shop.events.clear_events_to_publish()
    assert sdk.read(event).get_extension("traceparent") == first["traceparent"]
    assert sdk.read(event).get_extension("tracestate") is None
    assert event.headers["traceparent"] == traceparent


@pytest.mark.parametrize(
    ("name", "value", "is_one"),
    [
        ("traceparent", "own", True),
        ("Traceparent", "own", True),
        ("traceparent", 7, False),
        ("traceparent", "", False),
        ("traceparent", "a\nb", False),
        ("tracestate", "vendor=1", False),
    ],
)
def test_a_header_of_the_caller_is_the_context(
    shop: Shop, name: str, value: Any, is_one: bool
) -> None:
    found = attributes_of(enqueue(shop, headers={name: value}))
    shop.events.clear_events_to_publish()
    assert found.get("traceparent") == ("own" if is_one else None)
    assert "tracestate" not in found


def test_received_reads_the_context_in_binary_mode() -> None:
    with open_shop(**settings("binary")) as shop:
        with in_trace("vendor=1") as traceparent:
            event = enqueue(shop)
        shop.events.clear_events_to_publish()
    message = received(BasicProperties(message_id=event.id, headers={**event.headers}))
    for carrier in (message.headers, message.attributes):
        found: dict[str, str] = {}
        propagate.inject(found, propagate.extract(carrier, context.Context()))
        assert found == {"traceparent": traceparent, "tracestate": "vendor=1"}


def test_of_several_with_a_key_the_last_one_s_attributes_remain(shop: Shop) -> None:
    with shop.events.auto_publish() as block:
        for number in "12":
            about = {"subject": number}
            last = block.enqueue_event(number, "orders", attributes=about, key="a")
    (sent,) = shop.broker.events("orders")
    assert (sdk.read(sent).get_id(), sdk.read(sent).get_subject()) == (last.id, "2")


# Stores.


def test_a_row_of_the_outbox_has_all_of_it(shop: Shop) -> None:
    before = enqueue(shop)
    shop.events.clear_events_to_publish()

    values = values_of(before)
    headers, properties = about_from_text(values["headers"])

    assert (headers, properties) == (before.headers, before.properties)
    assert values["body"] == before.body


@pytest.fixture
def left(shop: Shop, mode: str, tmp_path: Path) -> Iterator[tuple[Event, Shop]]:
    """An event that an ended process has left in a spool, and a shop to deliver it.

    That has other settings.
    """
    folder = tmp_path / "spool"
    found = enqueue(shop, type="order.created")
    shop.events.clear_events_to_publish()
    journal = Journal.open(support.leave(folder, [], "orders", destination=None))
    journal.write([row_of(Entry(found), 1)])
    journal.close()
    spool = {"BACKLOG": "spool", "SPOOL_DIR": str(folder), "TESTING_BROKER": True}
    with open_shop(BROKER_URL="memory://", **spool) as other:
        yield found, other


def run(shop: Shop, *args: str) -> str:
    result = runner(shop).invoke(args=["events", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_survives_the_spool_and_a_change_of_the_settings(
    left: tuple[Event, Shop],
) -> None:
    before, shop = left

    run(shop, "flush")

    (sent,) = shop.broker.events("orders")
    assert sdk.read(sent).get_attributes() == sdk.read(before).get_attributes()
    assert sdk.read(sent).get_data() == sent.payload == {"id": 7}


def test_it_keeps_its_type_in_another_queue_and_over_an_export(
    left: tuple[Event, Shop], tmp_path: Path
) -> None:
    before, shop = left
    file = str(tmp_path / "exported")

    run(shop, "export", file, "--remove")
    run(shop, "import", file)
    run(shop, "retry", before.id, "--to", "others")
    run(shop, "flush")

    (sent,) = shop.broker.events("others")
    assert sdk.read(sent).get_attributes() == sdk.read(before).get_attributes()


def test_it_is_shown_with_its_attributes(left: tuple[Event, Shop]) -> None:
    before, shop = left

    lines = run(shop, "show", before.id, "--payload").splitlines()
    shown = json.loads(run(shop, "show", before.id, "--payload", "--json"))

    assert "property  type: order.created" in lines
    assert "attribute subject: order-7" in lines
    assert "attribute source: /shop" in lines
    assert not [line for line in lines if line.startswith("header")]
    assert lines[-4:] == ["payload", "{", '  "id": 7', "}"]
    assert shown["attributes"] == attributes_of(before)
    assert (shown["headers"], shown["payload"]) == ({}, {"id": 7})


def test_an_event_that_is_none_has_no_attributes() -> None:
    with open_shop() as shop:
        found = shop.events.enqueue_event(1, "q", headers={"ce-id": "7"})
        other = shop.events.enqueue_event(
            b"[1]", "q", content_type="application/cloudevents-batch+json"
        )
        shop.events.clear_events_to_publish()
    assert attributes_of(found) == attributes_of(other) == {}
    assert other.payload == [1]


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b'{"data": {"a": 1}}', {"a": 1}),
        (b'{"data_base64": "/w=="}', b"\xff"),
        (b'{"data_base64": 7}', 7),
        (b'{"id": "7"}', None),
        (b"{", b"{"),
    ],
    ids=["JSON", "bytes", "invalid", "nothing", "broken"],
)
def test_the_payload_of_a_cloudevent_that_the_app_makes_is_its_data(
    body: bytes, payload: object
) -> None:
    kind = "application/cloudevents+json"
    with open_shop() as shop:
        found = shop.events.enqueue_event(body, "q", content_type=kind)
        shop.events.clear_events_to_publish()
    assert found.payload == payload


# The test kit.


@pytest.mark.parametrize(
    "attributes",
    [
        ATTRIBUTES,
        {"subject": "order-7", "source": "/shop", "type": "orders"},
        {"retries": lambda text: int(text) > 2},
        {"subject": str, "tenant": None},
        dict,
    ],
    ids=["given", "set", "predicate", "type", "all"],
)
def test_attributes_are_asserted_on_alike_in_both_modes(
    shop: Shop, attributes: Any
) -> None:
    with shop.events.capture() as captured:
        with shop.events.auto_publish():
            enqueue(shop)
        captured.assert_published("orders", {"id": 7}, attributes=attributes)
        assert captured.published == [event("orders", attributes=attributes)]
        assert captured.published[0].attributes["retries"] == "3"


def test_a_wrong_attribute_is_shown(shop: Shop) -> None:
    with shop.events.capture() as captured:
        with shop.events.auto_publish():
            enqueue(shop, headers={"tenant": "a"})
        expected = {"subject": "order-8"}
        message = failure(
            lambda: captured.assert_published("orders", attributes=expected)
        )
    assert "with attributes {'subject': 'order-8'}" in message
    assert "attributes['subject']: expected 'order-8', found 'order-7'" in message
    # Without what the library itself sets.
    assert "attributes={'subject': 'order-7', 'retries': '3'})" in message
    assert "headers={'tenant': 'a'}, " in message


def test_an_event_that_is_no_cloudevent_has_none() -> None:
    with open_shop() as shop, shop.events.capture() as captured:
        with shop.events.auto_publish() as block:
            block.enqueue_event(1, "q")
        captured.assert_published("q", attributes=None)
        message = failure(lambda: captured.assert_published("q", attributes={"a": "b"}))
    assert "attributes['a']: expected 'b', found None" in message


def test_what_no_attribute_can_be_is_refused(shop: Shop) -> None:
    words = "of type float, which an attribute can't"
    with shop.events.capture() as captured, pytest.raises(TypeError, match=words):
        captured.assert_published("orders", attributes={"weight": 1.5})
