"""How connections to RabbitMQ are made, refused and maintained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from flask_eventcollector import BrokerState, EventCollector
from tests.faults.tls import Authority, TLSProxy
from tests.integration import load
from tests.rabbitmq import RabbitMQNode, free_ports

pytestmark = pytest.mark.rabbitmq

PASSWORD = "the-planted-password"
#: The bytes of a heartbeat: type, channel, size and end.
HEARTBEAT_FRAME = 1 + 2 + 4 + 1


@contextmanager
def collecting(url: str, **settings: Any) -> Iterator[tuple[EventCollector, str]]:
    queue = load.fresh_queue()
    app, events = load.make_app(url, queue, **settings)
    with app.app_context():
        try:
            yield events, queue
        finally:
            events.close(0)


@contextmanager
def user(node: RabbitMQNode, *permissions: str) -> Iterator[str]:
    """A user with these permissions (configure, write, read) on the default vhost."""
    name = load.fresh_queue()
    node.add_user(name, PASSWORD)
    if permissions:
        node.set_permissions(name, *permissions)
    yield name
    node.delete_user(name)


def url_of(node: RabbitMQNode, credentials: str, vhost: str = "") -> str:
    return f"amqp://{credentials}@127.0.0.1:{node.port}/{vhost}"


def assert_retained(events: EventCollector, because: str) -> None:
    """The event is retained, and both the state and the log tell the reason."""
    load.wait_for(lambda: because in events.stats().broker_error)
    stats = events.stats()
    # The next attempt may be in progress.
    assert (stats.retained + stats.in_flight, stats.confirmed) == (1, 0)
    assert stats.balanced


def test_a_wrong_password_is_reported_without_the_password(
    rabbitmq: RabbitMQNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with collecting(url_of(rabbitmq, f"guest:{PASSWORD}")) as (events, queue):
        events.enqueue_event(1, queue)

        assert events.publish().retained == 1

        assert_retained(events, "wrong user name or password")
        assert events.stats().broker is BrokerState.DOWN
        load.wait_for(lambda: "wrong user name or password" in caplog.text)
        assert PASSWORD not in caplog.text
        assert PASSWORD not in repr(events.broker)


def test_a_missing_vhost_is_reported(rabbitmq: RabbitMQNode) -> None:
    with collecting(url_of(rabbitmq, "guest:guest", "nowhere")) as (events, queue):
        events.enqueue_event(1, queue)

        events.publish()

        assert_retained(events, "nowhere")


def test_a_missing_permission_is_reported_and_the_events_are_retained(
    rabbitmq: RabbitMQNode,
) -> None:
    with ExitStack() as stack:
        name = stack.enter_context(user(rabbitmq, ".*", "^$", ".*"))
        url = url_of(rabbitmq, f"{name}:{PASSWORD}")
        events, queue = stack.enter_context(collecting(url))
        events.enqueue_event(1, queue)

        events.publish(timeout=10)

        assert_retained(events, "ACCESS_REFUSED")
        assert events.stats().broker is BrokerState.READY
        rabbitmq.set_permissions(name, ".*", ".*", ".*")
        # RabbitMQ caches permissions per channel; each attempt has a new channel.
        load.wait_for(lambda: events.flush(5))
        assert events.stats().broker_error == ""


def test_a_name_that_does_not_resolve_is_reported() -> None:
    with collecting("amqp://guest:guest@no-such-host.invalid/") as (events, queue):
        events.enqueue_event(1, queue)

        events.publish()

        assert_retained(events, "host name resolution failed")


def test_several_nodes_are_tried_in_turn(rabbitmq: RabbitMQNode) -> None:
    urls = f"{_nobody()};{rabbitmq.url}"
    with collecting(urls) as (events, queue):
        events.enqueue_event(1, queue)

        assert events.publish(timeout=10).complete


def test_an_idle_connection_is_kept(rabbitmq: RabbitMQNode) -> None:
    # Long enough that a busy machine sends a heartbeat in time.
    with collecting(rabbitmq.url, HEARTBEAT=3) as (events, queue):
        events.enqueue_event(1, queue)
        assert events.publish(timeout=10).complete
        # Those of other tests may be about to end.
        load.wait_for(lambda: _connections(rabbitmq).count("<") == 1)
        connections, received = _connections(rabbitmq), _received(rabbitmq)

        load.wait_for(lambda: _received(rabbitmq) >= received + 3 * HEARTBEAT_FRAME)

        assert _connections(rabbitmq) == connections
        events.enqueue_event(2, queue)
        assert events.publish(timeout=10).complete


def test_queues_are_declared_again_after_a_reconnect(
    private_rabbitmq: RabbitMQNode,
) -> None:
    with collecting(private_rabbitmq.url) as (events, queue):
        events.enqueue_event(1, queue)
        assert events.publish(timeout=10).complete
        private_rabbitmq.delete(queue)

        # Others may be about to end.
        load.wait_for(lambda: _connections(private_rabbitmq).count("<") == 1)
        closed = _connections(private_rabbitmq)

        private_rabbitmq.close_all_connections()

        load.wait_for(lambda: _connections(private_rabbitmq) not in (closed, "[]"))
        events.enqueue_event(2, queue)
        assert events.publish(timeout=10).complete
        assert private_rabbitmq.count(queue) == 1


def test_a_new_connection_during_an_alarm_is_shown_as_blocked(
    private_rabbitmq: RabbitMQNode,
) -> None:
    private_rabbitmq.memory_alarm(True)
    with collecting(private_rabbitmq.url) as (events, queue):
        events.enqueue_event(1, queue)

        assert events.publish().confirmed == 0

        load.wait_for(lambda: events.stats().broker is BrokerState.BLOCKED)
        events.enqueue_event(2, queue)
        assert events.publish().confirmed == 0
        private_rabbitmq.memory_alarm(False)
        assert events.flush(30)
        assert [m.json() for m in private_rabbitmq.get_all(queue)] == [1, 2]


def test_no_more_than_the_limit_is_in_flight(private_rabbitmq: RabbitMQNode) -> None:
    with collecting(private_rabbitmq.url, MAX_IN_FLIGHT=10) as (events, queue):
        events.enqueue_event(-1, queue)
        assert events.publish(timeout=10).complete
        private_rabbitmq.freeze()
        for number in range(50):
            events.enqueue_event(number, queue)

        events.publish()

        load.wait_for(lambda: events.stats().in_flight >= 10)
        stats = events.stats()
        assert (stats.in_flight, stats.retained) == (10, 40)
        private_rabbitmq.thaw()
        assert events.flush(30)
        arrived = [m.json() for m in private_rabbitmq.get_all(queue)]
        assert arrived == [-1, *range(50)]


def test_missing_confirms_end_the_connection(
    private_rabbitmq: RabbitMQNode,
) -> None:
    # Long enough for the second event to be sent before the connection ends.
    with collecting(private_rabbitmq.url, HEARTBEAT=3) as (events, queue):
        events.enqueue_event(1, queue)
        assert events.publish(timeout=10).complete
        private_rabbitmq.freeze()
        events.enqueue_event(2, queue)
        events.publish()
        load.wait_for(lambda: events.stats().in_flight == 1)

        load.wait_for(lambda: events.stats().broker is BrokerState.DOWN)

        stats = events.stats()
        assert (stats.in_flight, stats.retained) == (0, 1)
        private_rabbitmq.thaw()
        assert events.flush(30)
        messages = private_rabbitmq.get_all(queue)
        assert {m.json() for m in messages} == {1, 2}
        assert load.marked(messages) == {messages[-1].id}


# TLS, with a proxy that terminates it.


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def trusting(authority: Authority) -> Iterator[str]:
    """What makes a URL trust the authority."""
    with authority.file() as path:
        yield f"?cacertfile={path}"


def test_amqps_is_spoken(
    rabbitmq: RabbitMQNode, authority: Authority, trusting: str
) -> None:
    with (
        TLSProxy(rabbitmq.port, authority.context("localhost")) as proxy,
        collecting(f"amqps://localhost:{proxy.port}/{trusting}") as (events, queue),
    ):
        events.enqueue_event(1, queue)

        assert events.publish(timeout=10).complete


def test_an_unknown_authority_is_refused(
    rabbitmq: RabbitMQNode, authority: Authority
) -> None:
    with (
        TLSProxy(rabbitmq.port, authority.context("localhost")) as proxy,
        collecting(f"amqps://localhost:{proxy.port}/") as (events, queue),
    ):
        events.enqueue_event(1, queue)

        events.publish()

        assert_retained(events, "certificate verification failed")


def test_a_certificate_for_another_name_is_refused(
    rabbitmq: RabbitMQNode, authority: Authority, trusting: str
) -> None:
    with (
        TLSProxy(rabbitmq.port, authority.context("elsewhere.example")) as proxy,
        collecting(f"amqps://localhost:{proxy.port}/{trusting}") as (events, queue),
    ):
        events.enqueue_event(1, queue)

        events.publish()

        assert_retained(events, "certificate verification failed")


def _nobody() -> str:
    """The URL of a port without a listener."""
    (port,) = free_ports(1)
    return f"amqp://guest:guest@127.0.0.1:{port}/"


def _connections(node: RabbitMQNode) -> str:
    return node.eval("lists:sort(rabbit_networking:connections()).")


def _received(node: RabbitMQNode) -> int:
    """The bytes that the node has received on all of its connections."""
    info = "rabbit_networking:connection_info(Pid, [recv_oct])"
    each = f"Pid <- rabbit_networking:connections(), [{{_, N}}] <- [{info}]"
    return int(node.eval(f"lists:sum([N || {each}])."))
