"""The smallest form of the benchmarks of the outbox: every event must arrive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.outbox import (
    draining,
    holding,
    latency,
    relays,
    servers,
    transactions,
)
from benchmarks.outbox.arriving import check_order
from benchmarks.outbox.shop import OWN
from benchmarks.results import Unavailable
from tests.databases import MariaDB, PostgreSQL
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.slow


@pytest.fixture
def shared_server(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the benchmarks use the tests' server instead of one of their own."""

    @contextmanager
    def new_database(_: str) -> Iterator[str]:
        yield postgresql.new_database()

    for module in (relays, latency, draining, holding):
        monkeypatch.setattr(module, "new_database", new_database)


@pytest.mark.usefixtures("shared_server")
@pytest.mark.parametrize("name", relays.RELAYS)
def test_a_relay_is_measured(rabbitmq: RabbitMQNode, name: str) -> None:
    try:
        measured = relays.relay_rate(relays.RELAYS[name], 600, rabbitmq)
    except Unavailable as error:
        pytest.skip(str(error))

    assert measured[relays.UNIT] > 0


@pytest.mark.usefixtures("shared_server")
def test_an_app_that_sends_itself_is_measured(rabbitmq: RabbitMQNode) -> None:
    assert relays.own_rate(2000, rabbitmq)[relays.UNIT] > 0


@pytest.mark.usefixtures("shared_server")
def test_the_time_after_a_commit_is_measured(rabbitmq: RabbitMQNode) -> None:
    measured = latency.latency(OWN, 30, rabbitmq)

    assert 0 < measured[latency.P50] <= measured[latency.P99]


def test_a_transaction_is_measured(rabbitmq: RabbitMQNode) -> None:
    measured = transactions.costs(servers.SQLITE, 1, 2, rabbitmq)

    assert min(values[transactions.UNIT] for values in measured.values()) > 0


@pytest.mark.usefixtures("shared_server")
def test_each_tenth_of_a_backlog_is_measured(rabbitmq: RabbitMQNode) -> None:
    measured = draining.drain(1000, rabbitmq)

    assert list(measured) == list(draining.TENTHS)


@pytest.mark.usefixtures("shared_server")
def test_bursts_beside_an_open_transaction_are_measured(rabbitmq: RabbitMQNode) -> None:
    measured = holding.hold((0, 1), rabbitmq, burst=300)

    assert list(measured) == ["0 s", "1 s"]


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ([1, 3, 2], "event 3 is in place 2"),
        ([1, 2, 3, 4], "4 messages in .*, though 3 were sent"),
    ],
)
def test_a_wrong_order_is_noticed(
    rabbitmq: RabbitMQNode, queue_name: str, numbers: list[int], problem: str
) -> None:
    rabbitmq.declare(queue_name)
    rabbitmq.publish(queue_name, *(b'{"n": %d}' % number for number in numbers))

    with pytest.raises(RuntimeError, match=problem):
        check_order(rabbitmq, queue_name, 3)


def test_a_server_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = {servers.MARIADB: (MariaDB, lambda: "MariaDB")}
    monkeypatch.setattr(servers, "_SERVERS", missing)

    with (
        pytest.raises(Unavailable, match="MariaDB is not installed"),
        servers.new_database(servers.MARIADB),
    ):
        pass
