"""The exchanges, queues and bindings of the settings, on a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flask_eventcollector.brokers.rabbitmq.inspection import State
from tests.cli.support import runner
from tests.helpers import DEADLINE, Recorder, Shop, open_shop, wait_until
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.rabbitmq

QUICK = {"RETRY_DELAY": 0.05, "RETRY_MAX_DELAY": 0.2, "CONFIRM_TIMEOUT": 0}
TOPIC = {"shop": {"type": "topic"}}
#: Served whatever is wrong with others.
HEALTHY = {"healthy": {"bind": ["amq.topic:healthy.#"]}}


@contextmanager
def shop_at(node: RabbitMQNode, **settings: Any) -> Iterator[Shop]:
    broker = {"BROKER_URL": node.url, "TESTING_BROKER": True}
    with open_shop(**QUICK | broker | settings) as shop:
        yield shop


def publish(shop: Shop, key: str, exchange: str = "shop", **more: Any) -> None:
    shop.events.enqueue_event(key, key, exchange=exchange, **more)
    assert shop.events.publish(timeout=DEADLINE).complete


def bodies(node: RabbitMQNode, queue: str) -> list[Any]:
    return [message.json() for message in node.get_all(queue)]


def connect(shop: Shop) -> str:
    """Publish to a healthy queue; returns the broker's problems."""
    publish(shop, "healthy.one", "amq.topic")
    return shop.events.stats().broker_error


# From an empty broker


def test_each_kind_of_exchange_is_declared_and_bound(
    private_rabbitmq: RabbitMQNode,
) -> None:
    exchanges = {
        "topic": {"type": "topic"},
        "direct": {"type": "direct", "durable": False},
        "fanout": {"type": "fanout", "auto_delete": True},
        "headers": {"type": "headers"},
    }
    bindings = [
        "topic:orders.*",
        "direct:orders",
        "fanout",
        {"exchange": "headers", "arguments": {"x-match": "any", "tenant": "acme"}},
    ]
    queues = {"orders": {"bind": bindings}}
    with shop_at(private_rabbitmq, EXCHANGES=exchanges, QUEUES=queues) as shop:
        publish(shop, "orders.created", "topic")
        publish(shop, "orders", "direct")
        publish(shop, "anything", "fanout")
        publish(shop, "ignored", "headers", headers={"tenant": "acme", "more": 1})

        assert shop.events.stats().broker_error == ""
        found = bodies(private_rabbitmq, "orders")

    assert found == ["orders.created", "orders", "anything", "ignored"]


def test_an_alternate_exchange_gets_what_no_queue_gets(
    private_rabbitmq: RabbitMQNode,
) -> None:
    exchanges = {
        "shop": {"type": "topic", "alternate": "rest"},
        "rest": {"type": "fanout"},
    }
    queues = {"orders": {"bind": ["shop:orders.#"]}, "rest": {"bind": ["rest"]}}
    with shop_at(private_rabbitmq, EXCHANGES=exchanges, QUEUES=queues) as shop:
        publish(shop, "users.created")

        assert bodies(private_rabbitmq, "rest") == ["users.created"]
        assert bodies(private_rabbitmq, "orders") == []


def test_what_no_queue_of_an_alternate_exchange_gets_is_returned(
    private_rabbitmq: RabbitMQNode,
) -> None:
    exchanges = {
        "shop": {"type": "topic", "alternate": "rest"},
        "rest": {"type": "fanout"},
    }
    with shop_at(private_rabbitmq, EXCHANGES=exchanges) as shop:
        shop.events.enqueue_event(1, "users.created", exchange="shop")
        (problem,) = shop.events.publish(timeout=DEADLINE).problems
        assert "nothing is bound to exchange 'shop'" in problem.reason

        with private_rabbitmq.channel() as channel:
            channel.queue_declare("others", durable=True)
            channel.queue_bind("others", "rest")
        assert shop.events.flush(DEADLINE)
        assert private_rabbitmq.count("others") == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classic", "quorum", "stream"])
def test_each_type_of_queue_is_declared_and_gets_events(
    private_rabbitmq: RabbitMQNode, kind: str
) -> None:
    queues = {"orders": {"type": kind, "bind": ["shop:orders.#"]}}
    with shop_at(private_rabbitmq, EXCHANGES=TOPIC, QUEUES=queues) as shop:
        publish(shop, "orders.created")
        assert shop.events.stats().broker_error == ""
        wait_until(lambda: ready(private_rabbitmq) == 1, "it is in the queue")

        shown = private_rabbitmq.eval("[amqqueue:get_type(Q) || Q <- " + QUEUES + "].")

    assert kind in shown


def test_a_stream_keeps_no_lists_and_no_dicts_among_the_headers(
    private_rabbitmq: RabbitMQNode,
) -> None:
    kept: dict[str, Any] = {"name": "Zoë", "number": 7, "sure": True, "nothing": None}
    lost = {"list": [1], "dict": {"a": 1}}
    with shop_at(private_rabbitmq, QUEUES={"orders": {"type": "stream"}}) as shop:
        shop.events.enqueue_event(1, "orders", headers=kept | lost)
        assert shop.events.publish(timeout=DEADLINE).complete

    with private_rabbitmq.channel() as channel:
        channel.basic_qos(prefetch_count=1)
        from_start = {"x-stream-offset": "first"}
        messages = channel.consume(
            "orders", arguments=from_start, inactivity_timeout=DEADLINE
        )
        _, properties, _ = next(messages)
    assert properties is not None
    assert properties.headers == kept | {"x-stream-offset": 0}


QUEUES = "rabbit_amqqueue:list()"


def ready(node: RabbitMQNode) -> int:
    """The messages in the only queue; a stream has no other way to show them."""
    shown = node.eval(
        f"[Q] = {QUEUES}, [{{messages, N}}] = rabbit_amqqueue:info(Q, [messages]), N."
    )
    return int(shown) if shown.strip().isdigit() else 0


# What no queue gets


def test_an_event_for_which_nothing_is_bound_says_so_and_goes_once_something_is(
    private_rabbitmq: RabbitMQNode, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"EXCHANGE": "amq.topic", "QUEUES": {"orders.created": {}}}
    with shop_at(private_rabbitmq, **settings) as shop:
        shop.events.enqueue_event(1, "orders.created")
        (problem,) = shop.events.publish(timeout=DEADLINE).problems

        assert problem.reason == (
            "nothing is bound to exchange 'amq.topic' for routing key"
            " 'orders.created': NO_ROUTE; bind a queue in EVENTCOLLECTOR_QUEUES, or"
            " set 'unrouted' in EVENTCOLLECTOR_EXCHANGES"
        )
        assert problem.reason in caplog.text
        with private_rabbitmq.channel() as channel:
            channel.queue_bind("orders.created", "amq.topic", "orders.#")
        assert shop.events.flush(DEADLINE)
        assert shop.books() == {"confirmed": 1}


def test_a_queue_that_somebody_has_deleted_is_told_and_comes_back_with_apply(
    private_rabbitmq: RabbitMQNode,
) -> None:
    queues = {"orders": {"bind": ["shop:orders.#"]}}
    with shop_at(private_rabbitmq, EXCHANGES=TOPIC, QUEUES=queues) as shop:
        publish(shop, "orders.created")
        private_rabbitmq.delete("orders")
        shop.events.enqueue_event(1, "orders.created", exchange="shop")
        shop.events.publish()
        wait_until(lambda: bool(shop.events.stats().problems), "it is returned")
        (problem,) = shop.events.stats().problems
        look(shop, "apply")
        wait_until(lambda: shop.books() == {"confirmed": 2}, "it is sent")

    assert problem.reason == (
        "nothing is bound to exchange 'shop' for routing key 'orders.created':"
        " NO_ROUTE; EVENTCOLLECTOR_QUEUES binds 'orders', but that was deleted, or"
        " could not be declared: see 'flask events topology apply', which declares it"
        " anew"
    )


def test_an_exchange_without_subscribers_may_discard(
    private_rabbitmq: RabbitMQNode, caplog: pytest.LogCaptureFixture
) -> None:
    exchanges = {"news": {"type": "topic", "unrouted": "discard"}}
    with (
        shop_at(private_rabbitmq, EXCHANGES=exchanges, QUEUES=HEALTHY) as shop,
        Recorder(shop) as heard,
    ):
        publish(shop, "nobody.hears", "news")

        assert shop.books() == {"unrouted": 1}
        said = heard.one("events_unrouted").about
        assert said["reason"].startswith("nothing is bound to exchange 'news' for")
        assert heard.names() == ["event_enqueued", "events_unrouted"]
        assert "nobody.hears" not in caplog.text


# The broker in memory

PATTERNS = ["#", "*", "a.*", "a.#", "#.a", "*.#", "a.#.b", "a.*.b", "a", "#.#", "a..b"]
KEYS = ["a", "a.b", "a.c.b", "a.c.d.b", "b.a", "b", "a.", ".a", "a..b", "..", "aa.b"]
MATCHES: list[dict[str, Any]] = [
    {},
    {"a": 1},
    {"x-match": "any", "a": 1, "b": "x"},
    {"x-match": "all", "a": 1, "b": "x"},
    {"x-match": "any"},
    {"a": None},
    {"a": True},
    {"x-a": 1},
    {"x-match": "any", "x-a": 1},
]
#: RabbitMQ 3.10 knows two more, which also compare headers that begin with "x-".
WITH_X = [{"x-match": f"{mode}-with-x", "x-a": 1, "a": 1} for mode in ("any", "all")]
HEADERS: list[dict[str, Any]] = [
    {},
    {"a": 1},
    {"a": "1"},
    {"a": True},
    {"a": None},
    {"a": 1, "b": "x", "c": 3},
    {"b": "x"},
    {"x-a": 1},
    {"x-a": 1, "a": 1},
]


def test_the_broker_in_memory_routes_as_rabbitmq_does(
    private_rabbitmq: RabbitMQNode,
) -> None:
    exchanges = {
        "t": {"type": "topic", "unrouted": "discard"},
        "h": {"type": "headers", "unrouted": "discard"},
    }
    tables = [*MATCHES, *WITH_X]
    topics = {f"t {p}": {"bind": [f"t:{p}"]} for p in PATTERNS}
    headers = {
        f"h {number}": {"bind": [{"exchange": "h", "arguments": table}]}
        for number, table in enumerate(tables)
    }
    settings: dict[str, Any] = {"EXCHANGES": exchanges, "QUEUES": topics | headers}
    with shop_at(private_rabbitmq, **settings) as shop, open_shop(**settings) as twin:
        for each in (shop, twin):
            for key in KEYS:
                each.events.enqueue_event(key, key, exchange="t")
            for number, table in enumerate(HEADERS):
                each.events.enqueue_event(number, "k", exchange="h", headers=table)
            assert each.events.publish(timeout=DEADLINE).complete
        assert shop.events.stats().broker_error == ""
        routed = {q: bodies(private_rabbitmq, q) for q in settings["QUEUES"]}
        assert routed == {q: twin.sent(q) for q in settings["QUEUES"]}
        assert shop.books() == twin.books()


# What exists with other arguments

QUEUE = "queue 'q' exists, and differs: "
EXCHANGE = "exchange 'x' exists, and differs: "
CORRECT_QUEUE = (
    ": correct EVENTCOLLECTOR_QUEUES, or delete the queue once it is empty, so that it"
    " is declared anew. Until then, it is used as it is"
)
CORRECT_EXCHANGE = (
    ": correct EVENTCOLLECTOR_EXCHANGES, or delete the exchange, so that it is declared"
    " anew. Until then, it is used as it is"
)
#: What exists, what the settings say, and the difference as it is told.
DIFFERENT_QUEUES = [
    (
        {},
        {"type": "quorum"},
        "'x-queue-type' is {unset}, but the settings say quorum",
    ),
    (
        {"arguments": {"x-queue-type": "quorum"}},
        {},
        "'x-queue-type' is quorum, but the settings {say_nothing}",
    ),
    ({"durable": False}, {}, "'durable' is false, but the settings say true"),
    (
        {"auto_delete": True},
        {},
        "'auto_delete' is true, but the settings say false",
    ),
    (
        {},
        {"x-max-length": 5},
        "'x-max-length' is not set, but the settings say 5",
    ),
    (
        {"arguments": {"x-max-length": 6}},
        {"x-max-length": 5},
        "'x-max-length' is 6, but the settings say 5",
    ),
    (
        {"arguments": {"x-max-length": 6}},
        {},
        "'x-max-length' is 6, but the settings do not set it",
    ),
    (
        {"arguments": {"x-dead-letter-exchange": "a'b"}},
        {"x-dead-letter-exchange": "c"},
        "'x-dead-letter-exchange' is a'b, but the settings say c",
    ),
]
DIFFERENT_EXCHANGES = [
    ({"exchange_type": "direct"}, {}, "'type' is direct, but the settings say topic"),
    ({"durable": False}, {}, "'durable' is false, but the settings say true"),
    ({"auto_delete": True}, {}, "'auto_delete' is true, but the settings say false"),
    ({"internal": True}, {}, "'internal' is true, but the settings say false"),
    (
        {"arguments": {"alternate-exchange": "a"}},
        {"alternate": "b"},
        "'alternate-exchange' is a, but the settings say b",
    ),
]


@pytest.mark.parametrize(("present", "given", "difference"), DIFFERENT_QUEUES)
def test_a_queue_that_differs_is_told_with_the_cure_and_holds_up_nobody(
    private_rabbitmq: RabbitMQNode,
    present: dict[str, Any],
    given: dict[str, Any],
    difference: str,
) -> None:
    # RabbitMQ 4 fills in a missing type.
    is_4 = private_rabbitmq.version.startswith("4.")
    words = ("classic", "say classic") if is_4 else ("not set", "do not set it")
    difference = difference.format(unset=words[0], say_nothing=words[1])
    with private_rabbitmq.channel() as channel:
        channel.queue_declare("q", **{"durable": True} | present)
        queues = {"q": {"bind": ["amq.topic:q"]} | given, **HEALTHY}
        with shop_at(private_rabbitmq, QUEUES=queues) as shop:
            assert connect(shop) == f"{QUEUE}{difference}{CORRECT_QUEUE}"
            # It is bound and used as it is.
            publish(shop, "q", "amq.topic")
            found = [line for line in look(shop, "diff")[1] if "queue q" in line]

    assert found[0] == f"! queue q: {difference}"


@pytest.mark.parametrize(("present", "given", "difference"), DIFFERENT_EXCHANGES)
def test_an_exchange_that_differs_is_told_with_the_cure_and_holds_up_nobody(
    private_rabbitmq: RabbitMQNode,
    present: dict[str, Any],
    given: dict[str, Any],
    difference: str,
) -> None:
    declared: Any = {"exchange_type": "topic", "durable": True, **present}
    with private_rabbitmq.channel() as channel:
        channel.exchange_declare("x", **declared)
    settings = {"EXCHANGES": {"x": {"type": "topic"} | given}, "QUEUES": HEALTHY}
    with shop_at(private_rabbitmq, **settings) as shop:
        assert connect(shop) == f"{EXCHANGE}{difference}{CORRECT_EXCHANGE}"
        found = look(shop, "diff")[1]

    assert f"! exchange x: {difference}" in found


# What is refused


@pytest.mark.parametrize(
    ("exchanges", "queues", "problem"),
    [
        (
            {},
            {"q": {"x-max-length": -1}},
            "queue 'q' was refused: PRECONDITION_FAILED - invalid arg 'x-max-length'",
        ),
        (
            {"others": {}},
            {"q": {"bind": ["others:a"]}},
            "binding 'others:a' of queue 'q' was refused: NOT_FOUND - no exchange",
        ),
        (
            {"odd": {"type": "x-odd"}},
            {"q": {}},
            "exchange 'odd' ",
        ),
    ],
)
def test_what_the_broker_refuses_holds_up_nobody(
    private_rabbitmq: RabbitMQNode, exchanges: Any, queues: Any, problem: str
) -> None:
    settings = {"EXCHANGES": exchanges, "QUEUES": queues | HEALTHY}
    with shop_at(private_rabbitmq, **settings) as shop:
        assert connect(shop).startswith(problem)
        code, found = look(shop, "check")

    assert code == 3
    assert any("refused" in line or "missing" in line for line in found)


def test_without_permission_the_cure_is_to_leave_the_exchange_to_others(
    private_rabbitmq: RabbitMQNode,
) -> None:
    private_rabbitmq.set_permissions("guest", "^healthy$", ".*", ".*")
    try:
        settings = {"EXCHANGES": TOPIC, "QUEUES": HEALTHY}
        with shop_at(private_rabbitmq, **settings) as shop:
            problem = connect(shop)
    finally:
        private_rabbitmq.set_permissions("guest", ".*", ".*", ".*")
    assert problem.startswith("exchange 'shop' was refused: ACCESS_REFUSED")
    assert "set 'declare' to False in EVENTCOLLECTOR_EXCHANGES" in problem


# The commands

EVERYTHING = {
    "EXCHANGES": TOPIC | {"crm": {}},
    "QUEUES": {"orders": {"type": "quorum", "bind": ["shop:orders.#"]}},
}


def look(shop: Shop, *command: str) -> tuple[int, list[str]]:
    """The exit code and the lines of a command."""
    result = runner(shop).invoke(args=["events", "topology", *command])
    assert isinstance(result.exception, (SystemExit, type(None))), result.exception
    return result.exit_code, result.stdout.splitlines()


def states(shop: Shop, command: str) -> dict[str, str]:
    _, lines = look(shop, command, "--json")
    found = json.loads("\n".join(lines))["findings"]
    return {finding["name"]: finding["state"] for finding in found}


def test_a_broker_without_anything_is_compared_and_set_up(
    private_rabbitmq: RabbitMQNode,
) -> None:
    with shop_at(private_rabbitmq, **EVERYTHING) as shop:
        code, lines = look(shop, "diff")
        assert code == 3
        assert lines == [
            "! exchange crm: the settings do not declare it: give it a 'type' in"
            " EVENTCOLLECTOR_EXCHANGES, or have others declare it",
            "+ exchange shop",
            "+ queue orders",
            "+ binding shop:orders.# → orders",
        ]
        assert set(states(shop, "check").values()) == {State.MISSING}
        with private_rabbitmq.channel() as channel:
            channel.exchange_declare("crm", "fanout")

        assert states(shop, "apply") == {
            "crm": "same",
            "shop": "declared",
            "orders": "declared",
            "shop:orders.# → orders": "bound",
        }
        assert look(shop, "check")[0] == look(shop, "apply")[0] == 0
        assert states(shop, "check") == {
            "crm": "same",
            "shop": "same",
            "orders": "same",
            "shop:orders.# → orders": "unknown",
        }
        assert look(shop, "diff") == (
            0,
            [
                "No differences.",
                "Not visible over AMQP: 1 binding, which 'apply' makes sure of.",
            ],
        )
        publish(shop, "orders.created")


def test_what_differs_is_told_if_the_brokers_text_is_cut_off(
    private_rabbitmq: RabbitMQNode,
) -> None:
    name = private_rabbitmq.declare("q" * 200, x_max_length=5)
    with shop_at(private_rabbitmq, QUEUES={name: {"x-max-length": 6}}) as shop:
        _, lines = look(shop, "diff", "--json")

    (finding,) = json.loads("\n".join(lines))["findings"]
    assert finding["state"] == "different"
    assert "inequivalent arg 'x-max-length'" in finding["reason"]
    assert "or delete the queue once it is empty" in finding["reason"]


def test_a_missing_exchange_with_a_name_that_rabbitmq_cuts_off_holds_up_nobody(
    private_rabbitmq: RabbitMQNode,
) -> None:
    """RabbitMQ 4.0 closes the connection over it: its text ends within a character."""
    name = "ä" * 120
    with shop_at(private_rabbitmq, QUEUES=HEALTHY, DEAD_AFTER=0) as shop:
        shop.events.enqueue_event(1, "q", exchange=name)
        shop.events.publish()
        wait_until(lambda: shop.events.stats().dead == 1, "it is dead")
        publish(shop, "healthy.one", "amq.topic")
        (dead,) = shop.events.dead()

    assert "b'" not in dead.reason
    assert dead.reason.startswith(("NOT_FOUND - no exchange 'ää", "closed by the bro"))


def test_apply_changes_nothing_that_exists(private_rabbitmq: RabbitMQNode) -> None:
    private_rabbitmq.declare("orders", x_max_length=5)
    private_rabbitmq.publish("orders", b"1")
    with shop_at(private_rabbitmq, **EVERYTHING) as shop:
        code, _ = look(shop, "apply")
        found = states(shop, "check")["orders"]

    assert (code, found) == (3, "different")
    assert private_rabbitmq.count("orders") == 1


def test_all_differences_of_a_queue_are_found(private_rabbitmq: RabbitMQNode) -> None:
    private_rabbitmq.declare("orders", x_max_length=5, x_overflow="reject-publish")
    queues = {"orders": {"type": "quorum", "x-max-length": 6, "x-message-ttl": 7}}
    with shop_at(private_rabbitmq, QUEUES=queues) as shop:
        _, lines = look(shop, "diff", "--json")

    (finding,) = json.loads("\n".join(lines))["findings"]
    assert sorted(d["argument"] for d in finding["differences"]) == [
        "x-max-length",
        "x-message-ttl",
        "x-overflow",
        "x-queue-type",
    ]
