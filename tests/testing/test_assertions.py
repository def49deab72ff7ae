"""Each assertion: when it passes, its message when it fails, and its misuse."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from flask_eventcollector.testing import Captured, event
from tests.helpers import Shop

from .shop_app import OpenShop, failure, place, publish

# assert_published


def test_a_published_event_is_found_and_returned(
    shop: Shop, captured: Captured
) -> None:
    place(shop)

    order = captured.assert_published("orders.created", {"sku": "A1"})

    assert order.payload == {"id": 7, "sku": "A1"}
    assert order.id == captured.published[0].id


def test_the_first_of_several_is_returned(shop: Shop, captured: Captured) -> None:
    place(shop, "A1")
    place(shop, "B2")

    assert captured.assert_published("orders.created").payload["sku"] == "A1"


def test_with_times_all_that_fit_are_returned(shop: Shop, captured: Captured) -> None:
    place(shop, "A1")
    place(shop, "B2")

    orders = captured.assert_published("orders.created", times=2)

    assert [order.payload["sku"] for order in orders] == ["A1", "B2"]


def test_the_queue_may_be_a_glob(shop: Shop, captured: Captured) -> None:
    place(shop)

    captured.assert_published("*.created", times=1)
    captured.assert_published("*", times=2)


def test_a_queue_whose_name_looks_like_a_glob_is_found_by_its_name(
    shop: Shop, captured: Captured
) -> None:
    publish(shop, 1, queue="prices[1]")

    captured.assert_published("prices[1]")


def test_headers_are_matched_as_a_subset(shop: Shop, captured: Captured) -> None:
    publish(shop, 1, headers={"tenant": "north", "version": 2})

    captured.assert_published("q", headers={"tenant": "north"})
    captured.assert_published("q", headers={"version": int})


def test_the_exchange_counts_if_it_is_named(shop: Shop, captured: Captured) -> None:
    publish(shop, 1, exchange="prices")

    captured.assert_published("q")
    captured.assert_published("q", exchange="prices")
    assert failure(captured.assert_published, "q", exchange="") == (
        "expected an event published to 'q' on the exchange '', but found none.\n"
        "\n"
        "Hint: such an event (shop_app.py in publish) was published to 'q' on the"
        " exchange 'prices'.\n"
        "\n"
        "All that was published:\n"
        "  event('q', 1, exchange='prices') (shop_app.py in publish)"
    )


def test_exactly_means_no_other_keys_at_any_depth(
    shop: Shop, captured: Captured
) -> None:
    publish(shop, {"id": 7, "buyer": {"name": "Ann", "age": 30}})

    whole = {"id": int, "buyer": {"name": "Ann", "age": 30}}
    captured.assert_published("q", whole, exact=True)
    assert failure(
        captured.assert_published, "q", {"buyer": {"name": "Ann"}}, exact=True
    ) == (
        "expected an event published to 'q' with exactly the payload"
        " {'buyer': {'name': 'Ann'}}, but found none.\n"
        "\n"
        "The closest is event('q', {'id': 7, 'buyer': {'name': 'Ann', 'age': 30}})"
        " (shop_app.py in publish):\n"
        "  payload['buyer']['age']: not expected: 30\n"
        "  payload['id']: not expected: 7\n"
        "\n"
        "All that was published:\n"
        "  event('q', {'id': 7, 'buyer': {'name': 'Ann', 'age': 30}})"
        " (shop_app.py in publish)"
    )


def test_a_failure_names_the_closest_event_with_its_differences(
    shop: Shop, captured: Captured
) -> None:
    place(shop, "B2")

    assert failure(
        captured.assert_published, "orders.created", {"sku": "A1", "n": 1}, times=1
    ) == (
        "expected 1 event published to 'orders.created' with the payload"
        " {'sku': 'A1', 'n': 1}, but found none.\n"
        "\n"
        "The closest is event('orders.created', {'id': 7, 'sku': 'B2'})"
        " (shop_app.py in place_order):\n"
        "  payload['sku']: expected 'A1', found 'B2'\n"
        "  payload['n']: expected 1, but it is missing\n"
        "\n"
        "All that was published:\n"
        "  event('orders.created', {'id': 7, 'sku': 'B2'})"
        " (shop_app.py in place_order)\n"
        "  event('mail.send', {'to': 'ann@example.org'}) (shop_app.py in place_order)"
    )


def test_the_closest_event_is_the_one_with_the_fewest_differences(
    shop: Shop, captured: Captured
) -> None:
    publish(shop, {"a": 0, "b": 0, "c": 0})
    publish(shop, {"a": 1, "b": 2, "c": 0})

    message = failure(captured.assert_published, "q", {"a": 1, "b": 2, "c": 3})

    assert (
        "The closest is event('q', {'a': 1, 'b': 2, 'c': 0}):\n"
        "  payload['c']: expected 3, found 0\n"
    ) in without_origin(message)


def test_a_failure_hints_at_the_same_event_on_another_queue(
    shop: Shop, captured: Captured
) -> None:
    place(shop)

    assert failure(captured.assert_published, "order.placed", {"sku": "A1"}) == (
        "expected an event published to 'order.placed' with the payload {'sku': 'A1'},"
        " but found none.\n"
        "\n"
        "Hint: such an event (shop_app.py in place_order) was published to"
        " 'orders.created'.\n"
        "\n"
        "All that was published:\n"
        "  event('orders.created', {'id': 7, 'sku': 'A1'})"
        " (shop_app.py in place_order)\n"
        "  event('mail.send', {'to': 'ann@example.org'}) (shop_app.py in place_order)"
    )


def test_with_any_payload_only_a_queue_of_a_similar_name_is_hinted_at(
    shop: Shop, captured: Captured
) -> None:
    place(shop)

    similar = without_origin(failure(captured.assert_published, "order.created"))
    assert "Hint: such an event was published to 'orders.created'." in similar
    assert "'mail.send'." not in similar
    assert "Hint" not in failure(captured.assert_published, "payments")


def test_a_failure_hints_at_an_event_that_was_discarded(
    shop: Shop, captured: Captured
) -> None:
    place(shop, path="/refused")

    assert failure(captured.assert_published, "orders.created", {"sku": "A1"}) == (
        "expected an event published to 'orders.created' with the payload"
        " {'sku': 'A1'}, but found none.\n"
        "\n"
        "Hint: such an event (shop_app.py in refuse_order) was discarded because the"
        " response was 409.\n"
        "\n"
        "Nothing was published."
    )


def test_a_failure_shows_a_close_event_although_it_was_discarded(
    shop: Shop, captured: Captured
) -> None:
    place(shop, path="/refused")

    assert failure(captured.assert_published, "orders.created", {"sku": "B2"}) == (
        "expected an event published to 'orders.created' with the payload"
        " {'sku': 'B2'}, but found none.\n"
        "\n"
        "The closest is event('orders.created', {'id': 8, 'sku': 'A1'})"
        " (shop_app.py in refuse_order), discarded because the response was 409:\n"
        "  payload['sku']: expected 'B2', found 'A1'\n"
        "\n"
        "Nothing was published."
    )


def test_a_failure_hints_at_an_event_that_was_cleared(
    shop: Shop, captured: Captured
) -> None:
    shop.enqueue(1)
    shop.events.clear_events_to_publish()

    assert (
        "Hint: such an event was discarded because clear_events_to_publish() was"
        " called."
    ) in without_origin(failure(captured.assert_published, "q"))


def test_a_failure_hints_at_an_event_that_the_broker_refused(
    shop: Shop, captured: Captured
) -> None:
    captured.fail_next(outcome="nacked")
    publish(shop, 1)

    assert failure(captured.assert_published, "q") == (
        "expected an event published to 'q', but found none.\n"
        "\n"
        "Hint: such an event (shop_app.py in publish) was retained (nacked) because the"
        " test called fail_next(): nacked; to retry it, call `captured.flush()`.\n"
        "\n"
        "Nothing was published."
    )


def test_a_failure_hints_at_an_event_that_the_missing_broker_could_not_take(
    shop: Shop, captured: Captured
) -> None:
    captured.broker_down()
    publish(shop, 1)

    assert (
        "Hint: such an event was retained because the broker is down: the test called"
        " broker_down(); to retry it, call `captured.broker_up(); captured.flush()`."
    ) in without_origin(failure(captured.assert_published, "q"))


def test_a_failure_hints_at_an_event_that_was_dropped(open_shop: OpenShop) -> None:
    shop = open_shop(MAX_EVENTS=1)
    with shop.events.capture() as captured:
        shop.enqueue(1, 2)

    assert (
        "Hint: such an event was dropped because EVENTCOLLECTOR_MAX_EVENTS or"
        " EVENTCOLLECTOR_MAX_BYTES was reached."
    ) in without_origin(failure(captured.assert_published, "q", 2))


def test_a_failure_hints_at_an_event_that_is_dead(open_shop: OpenShop) -> None:
    shop = open_shop(DEAD_AFTER=0)
    with shop.events.capture() as captured:
        captured.fail_next(outcome="returned")
        publish(shop, 1)

        assert (
            "Hint: such an event was dead-lettered because the test called"
            " fail_next(): returned; to retry it, call `events.retry();"
            " captured.flush()`."
        ) in without_origin(failure(captured.assert_published, "q"))


def test_a_failure_hints_at_code_without_a_block(
    shop: Shop, captured: Captured
) -> None:
    shop.enqueue(1)

    assert (
        "Hint: such an event was enqueued but never published: it was enqueued outside"
        " of requests and blocks (wrap the code in `with events.auto_publish():`, or"
        " call `events.publish()`)."
    ) in without_origin(failure(captured.assert_published, "q"))
    shop.events.clear_events_to_publish()


def test_a_failure_hints_at_a_request_that_was_not_torn_down(
    shop: Shop, captured: Captured
) -> None:
    with shop.test_client() as client:
        client.post("/orders", json={"sku": "A1"})
        with shop.test_request_context():
            shop.enqueue(1)

            assert (
                "Hint: such an event was enqueued but never published: its request has"
                " not been torn down (leave the `with` block of the test client; wrap"
                " the test's own code in `with events.auto_publish():`)."
            ) in without_origin(failure(captured.assert_published, "q"))


def test_a_failure_hints_at_a_block_that_has_not_ended(
    shop: Shop, captured: Captured
) -> None:
    with shop.events.auto_publish():
        shop.enqueue(1)

        assert (
            "Hint: such an event was enqueued but never published: the auto_publish()"
            " block around it has not ended (assert after it, or call"
            " `events.publish()` in it)."
        ) in without_origin(failure(captured.assert_published, "q"))


def test_fewer_than_expected_are_listed(shop: Shop, captured: Captured) -> None:
    publish(shop, 1)

    assert failure(captured.assert_published, "q", times=2) == (
        "expected 2 events published to 'q', but found 1:\n"
        "  event('q', 1) (shop_app.py in publish)"
    )


def test_more_than_expected_are_listed(shop: Shop, captured: Captured) -> None:
    publish(shop, 1)
    publish(shop, 2)

    assert failure(captured.assert_published, "q", times=1) == (
        "expected 1 event published to 'q', but found 2:\n"
        "  event('q', 1) (shop_app.py in publish)\n"
        "  event('q', 2) (shop_app.py in publish)"
    )


def test_long_lists_and_values_are_cut(shop: Shop, captured: Captured) -> None:
    for number in range(25):
        publish(shop, {f"key {n}": n for n in range(100)} | {"n": number})

    expected = {f"key {n}": -1 for n in range(100)}
    lines = failure(captured.assert_published, "q", expected).splitlines()

    assert len(lines) < 40
    assert max(map(len, lines)) < 300
    assert "  … and 90 more" in lines
    assert "  … and 5 more" in lines


# assert_discarded, assert_retained


def test_a_discarded_event_is_found_by_its_reason(
    shop: Shop, captured: Captured
) -> None:
    place(shop, path="/refused")
    place(shop, path="/crash")

    refused = captured.assert_discarded(
        "orders.created", {"sku": "A1"}, reason="the response was 409"
    )
    assert refused.reason == "the response was 409"
    captured.assert_discarded("*", reason="*409", times=1)
    captured.assert_discarded("*", reason=re.compile("ValueError"), times=1)


def test_a_wrong_reason_is_a_difference(shop: Shop, captured: Captured) -> None:
    place(shop, path="/refused")

    assert failure(captured.assert_discarded, "orders.*", reason="*500") == (
        "expected an event discarded for 'orders.*' because '*500', but found none.\n"
        "\n"
        "The closest is event('orders.created', {'id': 8, 'sku': 'A1'})"
        " (shop_app.py in refuse_order):\n"
        "  reason: expected '*500', found 'the response was 409'\n"
        "\n"
        "All that was discarded:\n"
        "  event('orders.created', {'id': 8, 'sku': 'A1'})"
        " (shop_app.py in refuse_order)"
    )


def test_an_event_that_was_published_was_not_discarded(
    shop: Shop, captured: Captured
) -> None:
    publish(shop, 1)

    assert failure(captured.assert_discarded, "q") == (
        "expected an event discarded for 'q', but found none.\n"
        "\n"
        "Hint: such an event (shop_app.py in publish) was published.\n"
        "\n"
        "Nothing was discarded."
    )


def test_a_retained_event_is_found_by_its_reason(
    shop: Shop, captured: Captured
) -> None:
    captured.fail_next(outcome="returned")
    publish(shop, 1)

    kept = captured.assert_retained("q", 1, reason="*returned", times=1)

    assert [kept[0].outcome, kept[0].attempts] == ["returned", 1]


def test_an_event_that_was_published_is_not_retained(
    shop: Shop, captured: Captured
) -> None:
    publish(shop, 1)

    assert failure(captured.assert_retained, "q", times=1) == (
        "expected 1 event retained for 'q', but found none.\n"
        "\n"
        "Hint: such an event (shop_app.py in publish) was published.\n"
        "\n"
        "Nothing was retained."
    )


# assert_not_published, assert_nothing_published


def test_what_was_discarded_was_not_published(shop: Shop, captured: Captured) -> None:
    place(shop, path="/refused")

    captured.assert_not_published("orders.*")
    captured.assert_nothing_published()


def test_an_event_with_another_payload_was_not_published(
    shop: Shop, captured: Captured
) -> None:
    place(shop)

    captured.assert_not_published("orders.created", {"sku": "B2"})
    captured.assert_not_published("payments.*")


def test_an_event_that_should_not_be_there_is_listed(
    shop: Shop, captured: Captured
) -> None:
    place(shop)

    assert failure(captured.assert_not_published, "orders.*", {"sku": str}) == (
        "expected no event published to 'orders.*' with the payload {'sku': str},"
        " but found 1:\n"
        "  event('orders.created', {'id': 7, 'sku': 'A1'})"
        " (shop_app.py in place_order)"
    )


def test_where_nothing_should_be_everything_is_listed(
    shop: Shop, captured: Captured
) -> None:
    place(shop)

    assert failure(captured.assert_nothing_published) == (
        "expected nothing to be published, but found 2:\n"
        "  event('orders.created', {'id': 7, 'sku': 'A1'})"
        " (shop_app.py in place_order)\n"
        "  event('mail.send', {'to': 'ann@example.org'}) (shop_app.py in place_order)"
    )


# assert_sequence


def test_a_sequence_may_have_others_between(shop: Shop, captured: Captured) -> None:
    for number in range(5):
        publish(shop, number, queue=f"q{number}")

    found = captured.assert_sequence(["q0", event("q*", 2), event("q4")])

    assert [e.payload for e in found] == [0, 2, 4]


def test_a_strict_sequence_has_no_others_between(
    shop: Shop, captured: Captured
) -> None:
    for queue in ("a", "x", "a", "b", "c", "y"):
        publish(shop, 1, queue)

    captured.assert_sequence(["a", "b", "c"], strict=True)
    assert failure(captured.assert_sequence, ["b", "y"], strict=True) == (
        "expected 2 events published in this order with no others between:\n"
        "  found      event('b', 1) (shop_app.py in publish)\n"
        "  not found  event('y')\n"
        "\n"
        "Hint: such an event (shop_app.py in publish) was published, but out of"
        " order.\n"
        "\n"
        "All that was published:\n"
        "  event('a', 1) (shop_app.py in publish)\n"
        "  event('x', 1) (shop_app.py in publish)\n"
        "  event('a', 1) (shop_app.py in publish)\n"
        "  event('b', 1) (shop_app.py in publish)\n"
        "  event('c', 1) (shop_app.py in publish)\n"
        "  event('y', 1) (shop_app.py in publish)"
    )


def test_a_broken_sequence_shows_where_it_breaks_off(
    shop: Shop, captured: Captured
) -> None:
    place(shop)
    place(shop, "B2", path="/refused")

    expected = ["mail.send", event("orders.*", {"sku": "B2"}), "mail.send"]
    assert failure(captured.assert_sequence, expected) == (
        "expected 3 events published in this order:\n"
        "  found      event('mail.send', {'to': 'ann@example.org'})"
        " (shop_app.py in place_order)\n"
        "  not found  event('orders.*', {'sku': 'B2'})\n"
        "  …          event('mail.send')\n"
        "\n"
        "The closest is event('orders.created', {'id': 7, 'sku': 'A1'})"
        " (shop_app.py in place_order):\n"
        "  payload['sku']: expected 'B2', found 'A1'\n"
        "\n"
        "Hint: such an event (shop_app.py in refuse_order) was discarded because the"
        " response was 409.\n"
        "\n"
        "All that was published:\n"
        "  event('orders.created', {'id': 7, 'sku': 'A1'})"
        " (shop_app.py in place_order)\n"
        "  event('mail.send', {'to': 'ann@example.org'}) (shop_app.py in place_order)"
    )


# assert_no_others


def test_what_was_asserted_on_leaves_no_others(shop: Shop, captured: Captured) -> None:
    place(shop)
    publish(shop, 1, queue="a")
    publish(shop, 2, queue="b")

    captured.assert_published("orders.*")
    captured.assert_sequence(["mail.send", "a"])
    assert event("b", 2) in captured.published

    captured.assert_no_others()


def test_a_list_that_is_equal_is_asserted_on(shop: Shop, captured: Captured) -> None:
    place(shop)

    assert captured.published == [event("orders.*"), event("mail.*")]

    captured.assert_no_others()


def test_only_what_was_published_has_to_be_asserted_on(
    shop: Shop, captured: Captured
) -> None:
    place(shop, path="/refused")

    captured.assert_no_others()


def test_what_was_not_asserted_on_is_listed(shop: Shop, captured: Captured) -> None:
    place(shop)
    captured.assert_published("orders.created")
    captured.assert_not_published("payments")

    assert failure(captured.assert_no_others) == (
        "expected no others to be published, but 1 was not asserted on:\n"
        "  event('mail.send', {'to': 'ann@example.org'}) (shop_app.py in place_order)\n"
        "\n"
        "Hint: assert on each, for example by"
        " `captured.assert_published('mail.send')`, or leave them out by"
        " `captured.ignore('mail.send')`."
    )


def test_an_assertion_that_fails_is_none(shop: Shop, captured: Captured) -> None:
    place(shop)

    failure(captured.assert_published, "orders.created", times=2)
    assert captured.published != [event("orders.*")]
    assert event("mail.send", {"to": "bob"}) not in captured.published

    assert "but 2 were not asserted on" in failure(captured.assert_no_others)


# Misuse


Assertion = Callable[[Captured], object]

MISUSES: dict[str, tuple[Assertion, type[Exception], str]] = {
    "no queue": (
        lambda c: c.assert_published(""),
        ValueError,
        "queue is empty: pass a name, or '*' for every queue",
    ),
    "a queue that is no str": (
        lambda c: c.assert_published(event("q")),  # type: ignore[call-overload]
        TypeError,
        "queue must be a str, not of type"
        " flask_eventcollector.testing.expected.ExpectedEvent",
    ),
    "headers that are no dict": (
        lambda c: c.assert_published("q", headers=["x"]),  # type: ignore[call-overload]
        TypeError,
        "headers must be a Mapping, not of type list",
    ),
    "a reason that is none": (
        lambda c: c.assert_discarded("q", reason=409),  # type: ignore[call-overload]
        TypeError,
        "reason must be a str or Pattern, not of type int",
    ),
    "zero times": (
        lambda c: c.assert_published("q", times=0),
        ValueError,
        "times must be 1 or more, not 0: to expect none, use assert_not_published()",
    ),
    "times that is no number": (
        lambda c: c.assert_retained("q", times=True),
        TypeError,
        "times must be an int, not of type bool",
    ),
    "a payload that JSON can't hold": (
        lambda c: c.assert_published("q", {"tags": {"a"}}),
        TypeError,
        "the expected payload['tags'] is of type set, which JSON can't represent, so no"
        " event can match it: expect what a consumer sees (dict, list, str, int, float,"
        " bool, NoneType), or a predicate",
    ),
    "a type that JSON can't hold": (
        lambda c: c.assert_not_published("q", [set]),
        TypeError,
        "the expected payload[0] is the type set, which JSON can't represent, so no"
        " event can match it: expect what a consumer sees (dict, list, str, int,"
        " float, bool,"
        " NoneType), or a predicate",
    ),
    "a header that AMQP can't hold": (
        lambda c: c.assert_published("q", headers={"rate": 0.5}),
        TypeError,
        "the expected headers['rate'] is of type float, which AMQP can't represent, so"
        " no event can match it: expect what a consumer sees (dict, list, str, bytes,"
        " int, bool, NoneType), or a predicate",
    ),
    "no sequence": (
        lambda c: c.assert_sequence([]),
        ValueError,
        "assert_sequence() got an empty list: to expect no event, use"
        " assert_nothing_published()",
    ),
    "a sequence of one string": (
        lambda c: c.assert_sequence("q"),
        TypeError,
        "assert_sequence() expects a list of events, not str",
    ),
    "a sequence of payloads": (
        lambda c: c.assert_sequence([{"id": 7}]),  # type: ignore[list-item]
        TypeError,
        "assert_sequence() expects results of event(), or names of queues, not dict",
    ),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
def test_misuse_is_reported_at_once(
    captured: Captured, misuse: tuple[Assertion, type[Exception], str]
) -> None:
    assertion, kind, words = misuse

    with pytest.raises(kind) as caught:
        assertion(captured)

    assert str(caught.value) == words


def test_misuse_is_reported_although_nothing_was_captured(captured: Captured) -> None:
    with pytest.raises(TypeError, match="complex"):
        captured.assert_published("q", 1j)


def without_origin(text: str) -> str:
    """*text* without the places where events were enqueued."""
    return re.sub(r" \([^()]*:\d+ in \w+\)| \(shop_app.py in \w+\)", "", text)
